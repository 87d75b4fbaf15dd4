"""The graph in other tools' formats, read back by their own schemas; and the command."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields

from optimizer.cli import optimize
from optimizer.errors import OptimizerError
from optimizer.plan import load_plan
from optimizer.simulate.graph.build import Wanted, plan_graph
from optimizer.simulate.graph.formats.as_svg import pipeline_svg
from optimizer.spec.data import configs_root

GOLDEN = Path(__file__).resolve().parents[2] / "results" / "golden"
DEEPSEEK = GOLDEN / "deepseek-v3-on-16-h200.json"
PIPELINE = GOLDEN / "llama-3.1-405b-on-22-h100.json"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(optimize, ["dag", *map(str, arguments)])


def written(tmp_path: Path, *arguments: object) -> str:
    out = tmp_path / "dag"
    found = run(*arguments, "--out", out)
    assert found.exit_code == 0, found.output
    return out.read_text()


def test_json_holds_every_node_and_edge(tmp_path: Path) -> None:
    graph = plan_graph(load_plan(DEEPSEEK), Wanted(("decode",)))
    found = json.loads(written(tmp_path, DEEPSEEK, "--phase", "decode"))
    assert (found["num_nodes"], found["num_edges"]) == (len(graph), len(graph.source))
    assert [node["id"] for node in found["nodes"]] == list(range(len(graph)))
    for name in ("flops", "bytes", "payload_bytes", "seconds"):
        total = sum(node[name] for node in found["nodes"])
        assert total == pytest.approx(graph.column(name).sum())
    assert {edge["kind"] for edge in found["edges"]} == {"data", "order"}
    assert found["ranks"][0]["stands_for"] == 16


def test_graphml_is_well_formed_and_complete(tmp_path: Path) -> None:
    text = written(tmp_path, DEEPSEEK, "--format", "graphml", "--phase", "decode")
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    root = ElementTree.fromstring(text)
    graph = plan_graph(load_plan(DEEPSEEK), Wanted(("decode",)))
    assert len(root.findall(".//g:node", space)) == len(graph)
    assert len(root.findall(".//g:edge", space)) == len(graph.source)
    keys = {key.get("id") for key in root.findall("g:key", space)}
    assert {data.get("key") for data in root.findall(".//g:data", space)} == keys


def test_dot_names_tensors_on_data_edges(tmp_path: Path) -> None:
    text = written(tmp_path, DEEPSEEK, "--format", "dot", "--phase", "decode", "--layers", "3")
    assert re.search(r'n0 \[label="attention_norms, [0-9.]+ us\\nlayer 3, ', text)
    assert 'n0 -> n1 [label="3.5 MiB"]' in text  # 256 tokens x 7168 x 2 B
    assert "[style=dashed]" in text


def chakra_schema() -> tuple[Any, Any]:
    """(GlobalMetadata, Node) as the carried et_def.proto defines them."""
    text = (configs_root() / "schema" / "chakra" / "et_def.proto").read_text()
    text = re.sub(r"//[^\n]*", "", text)
    file = descriptor_pb2.FileDescriptorProto(
        name="et_def.proto", package="ChakraProtoMsg", syntax="proto3"
    )
    scalars = {
        name.removeprefix("TYPE_").lower(): number
        for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
    }
    enums = set(re.findall(r"enum (\w+)", text))
    for name, body in re.findall(r"enum (\w+) \{([^}]*)\}", text):
        enum = file.enum_type.add(name=name)
        for value, number in re.findall(r"(\w+) = (\d+);", body):
            enum.value.add(name=value, number=int(number))
    for name, body in re.findall(r"message (\w+) \{((?:[^{}]|\{[^}]*\})*)\}", text):
        message = file.message_type.add(name=name)
        choice = re.search(r"oneof (\w+) \{([^}]*)\}", body)
        if choice:
            message.oneof_decl.add(name=choice[1])
        for repeated, kind, field, number in re.findall(r"(repeated )?(\w+) (\w+) = (\d+);", body):
            own = message.field.add(name=field, number=int(number), label=3 if repeated else 1)
            if kind in scalars:
                own.type = scalars[kind]
            else:
                own.type = scalars["enum" if kind in enums else "message"]
                own.type_name = f".ChakraProtoMsg.{kind}"
            if choice and f" {field} = " in choice[2]:
                own.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("GlobalMetadata", "Node")
    found = [pool.FindMessageTypeByName(f"ChakraProtoMsg.{name}") for name in names]
    return tuple(message_factory.GetMessageClass(each) for each in found)


def traces(folder: Path) -> list[list[Any]]:
    """The nodes of each rank, read with the schema; every byte is used."""
    metadata, node = chakra_schema()
    found = []
    for rank in range(len(list(folder.glob("*.et")))):
        data, place, messages = (folder / f"plan.{rank}.et").read_bytes(), 0, []
        while place < len(data):
            size = shift = 0
            while True:
                byte = data[place]
                size |= (byte & 0x7F) << shift
                place, shift = place + 1, shift + 7
                if byte < 0x80:
                    break
            kind = node if messages else metadata
            message = kind.FromString(data[place : place + size])
            assert not len(unknown_fields.UnknownFieldSet(message))
            messages.append(message)
            place += size
        assert messages[0].version == "0.0.4"
        found.append(messages[1:])
    return found


def attributes(node: Any) -> dict[str, Any]:
    return {each.name: getattr(each, each.WhichOneof("value")) for each in node.attr}


@pytest.fixture(scope="module")
def chakra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chakra")
    found = run(
        PIPELINE, "--format", "chakra", "--phase", "decode", "--micro-batches", 2, "--out", out
    )
    assert found.exit_code == 0, found.output
    assert found.output == f"16 traces and their groups written to {out}/\n"
    return out


def test_chakra_traces_sum_to_the_operator_table(chakra: Path) -> None:
    """Each of four tensor-parallel ranks of four stages runs its share: 16 files, four times the
    table's totals a micro-batch."""
    table = load_plan(PIPELINE).deployment.phases["decode"]
    every = [attributes(node) for rank in traces(chakra) for node in rank]
    flops = sum(each.get("num_ops", 0) for each in every)
    assert flops == pytest.approx(4 * 2 * table.total_flops[0])
    moved = sum(each.get("tensor_size", 0) for each in every)
    assert moved == pytest.approx(4 * 2 * table.total_bytes[0])


def test_chakra_nodes_wait_only_for_their_own_rank(chakra: Path) -> None:
    for rank in traces(chakra):
        before: set[int] = set()
        for node in rank:
            assert set(node.data_deps) | set(node.ctrl_deps) <= before
            before.add(node.id)


def test_chakra_collectives_name_groups_that_hold_their_rank(chakra: Path) -> None:
    """What ASTRA-sim's reader asks of a collective: a type that it knows, a size, and a group whose
    name is a whole number other than 0 and that is among the groups."""
    groups = json.loads((chakra / "comm_groups.json").read_text())
    assert sorted(rank for ranks in groups.values() for rank in ranks) == list(range(16))
    seen: dict[tuple[str, int], set[int]] = {}
    for rank, nodes in enumerate(traces(chakra)):
        for node in nodes:
            if node.type == 7:  # COMM_COLL_NODE
                found = attributes(node)
                assert found["comm_type"] in (0, 2)  # all-reduce, all-gather
                assert found["comm_size"] > 0
                assert not found["is_cpu_op"]
                assert rank in groups[found["pg_name"]]
                seen.setdefault((found["pg_name"], node.id), set()).add(rank)
    assert all(ranks == set(groups[name]) for (name, _), ranks in seen.items())


def test_chakra_sends_meet_their_receives(chakra: Path) -> None:
    sent, received = set(), set()
    for rank, nodes in enumerate(traces(chakra)):
        for node in nodes:
            if node.type in (5, 6):  # COMM_SEND_NODE, COMM_RECV_NODE
                found = attributes(node)
                message = tuple(found[f"comm_{name}"] for name in ("src", "dst", "tag", "size"))
                assert rank == message[0 if node.type == 5 else 1]
                (sent if node.type == 5 else received).add(message)
    assert sent == received
    assert len(sent) == 4 * 3 * 2  # ranks of a stage x boundaries x micro-batches


def test_chakra_durations_keep_their_sum(chakra: Path) -> None:
    graph = plan_graph(load_plan(PIPELINE), Wanted(("decode",), True, 2))
    first = sum(node.duration_micros for node in traces(chakra)[0])
    own = [0 in graph.teams[team] for team in graph.team.tolist()]
    assert first == pytest.approx(graph.column("seconds")[own].sum() * 1e6, abs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "61"], "the model has 0 to 60"),
        (["--layers", "first"], 'write for example "0-3"'),
        (["--phase", "training"], "its phases are prefill, decode"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "dag.json"
    found = run(DEEPSEEK, *arguments, "--out", out)
    assert isinstance(found.exception, OptimizerError)
    assert message in str(found.exception)
    assert not out.parent.exists()


SVG = {"s": "http://www.w3.org/2000/svg"}


def test_a_picture_of_a_layer_has_a_card_for_each_operator(tmp_path: Path) -> None:
    asked = (DEEPSEEK, "--format", "svg", "--phase", "decode", "--layers", "3")
    text = written(tmp_path, *asked)
    assert text == written(tmp_path, *asked)
    graph = plan_graph(load_plan(DEEPSEEK), Wanted(("decode",)))
    layer = graph.only((graph.layer == 3) & (graph.micro_batch == 0))
    root = ElementTree.fromstring(text)
    cards = [group.findtext("s:text", None, SVG) for group in root.findall("s:g", SVG)]
    assert cards == [layer.operations[each].name for each in layer.operation.tolist()]
    assert len(root.findall("s:path", SVG)) == len(layer.source)


def test_a_picture_of_a_pipeline_has_a_block_for_each_stage_and_micro_batch(
    tmp_path: Path,
) -> None:
    text = written(tmp_path, PIPELINE, "--format", "svg", "--phase", "decode")
    blocks = ElementTree.fromstring(text).findall("s:g", SVG)
    assert len(blocks) == 4 * 4  # stages x micro-batches
    placed = {
        (box.get("x"), box.get("y"))
        for box in (g.find("s:rect", SVG) for g in blocks)
        if box is not None
    }
    assert len(placed) == len(blocks)


def test_a_plan_name_cannot_break_a_picture(tmp_path: Path) -> None:
    plan = load_plan(DEEPSEEK).model_copy(update={"name": "a < b & <c>"})
    graph = plan_graph(plan, Wanted(("decode",)))
    text = "".join(pipeline_svg(graph, plan))
    assert ElementTree.fromstring(text).findtext("s:text", None, SVG) == plan.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "0-60"], "too many to look at"),
        (["--all-ranks"], "a picture shows equal ranks as one"),
    ],
)
def test_too_large_a_picture_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out" / "dag.svg"
    found = run(DEEPSEEK, "--format", "svg", *arguments, "--out", out)
    assert isinstance(found.exception, OptimizerError)
    assert message in str(found.exception)
    assert not out.parent.exists()

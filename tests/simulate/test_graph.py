"""Execution graphs: nothing left out, nothing counted twice, no circle; sums by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimizer.errors import PlanError, SpecError
from optimizer.plan import Deployment, Plan, load_plan
from optimizer.simulate.graph.build import Wanted, plan_graph
from optimizer.simulate.graph.check import check_graph
from optimizer.simulate.graph.graph import Graph, topological_order
from optimizer.simulate.graph.wiring import issue_order, reads
from optimizer.spec.linears import expert_parameters, total_parameters

GOLDEN = Path(__file__).resolve().parents[2] / "results" / "golden"
PLANS = sorted(path.name for path in GOLDEN.glob("*.json") if "trained" not in path.name)


def golden(name: str) -> Plan:
    return load_plan(GOLDEN / name)


@pytest.fixture(scope="module")
def deepseek() -> Plan:
    return golden("deepseek-v3-on-16-h200.json")


@pytest.fixture(scope="module")
def pipeline() -> Plan:
    return golden("llama-3.1-405b-on-22-h100.json")


def changed(plan: Plan, **update: object) -> Plan:
    """The plan with its deployment changed by hand."""
    deployment: Deployment = plan.deployment.model_copy(update=update)
    return plan.model_copy(update={"deployments": (deployment,)})


@pytest.mark.parametrize("name", PLANS)
def test_work_sums_to_the_operator_table(name: str) -> None:
    plan = golden(name)
    for phase, table in plan.deployment.phases.items():
        graph = plan_graph(plan, Wanted((phase,), micro_batches=2))
        assert graph.column("flops").sum() == pytest.approx(2 * table.total_flops[0])
        assert graph.column("bytes").sum() == pytest.approx(2 * table.total_bytes[0])
        payload = graph.column("payload_bytes").sum()
        assert payload == pytest.approx(2 * table.total_payload_bytes[0])


@pytest.mark.parametrize("name", PLANS)
def test_every_edge_leads_forward_and_nothing_is_left_out(name: str) -> None:
    plan = golden(name)
    for wanted in (Wanted(), Wanted(all_ranks=True, replicas=(0, 1))):
        graph = plan_graph(plan, wanted)
        check_graph(graph, plan)
        assert (graph.source < graph.target).all()


def test_work_of_all_ranks_is_that_of_one_times_all(deepseek: Plan) -> None:
    one, all_ranks = (
        plan_graph(deepseek, Wanted(("decode",), all_ranks=each)) for each in (False, True)
    )
    for quantity in ("flops", "bytes", "payload_bytes"):
        folded = one.column(quantity).sum()
        whole = (all_ranks.column(quantity) * all_ranks.team_sizes).sum()
        assert whole == pytest.approx(16 * folded)
    assert sum(rank.stands_for for rank in one.ranks) == len(all_ranks.ranks) == 16


def test_a_dense_pass_takes_two_operations_a_parameter_and_token(pipeline: Plan) -> None:
    """First principles: every parameter but the table multiplies every token once, the head's only
    those that need logits; four tensor-parallel ranks do a quarter each."""
    graph = plan_graph(pipeline, Wanted(("prefill",), micro_batches=1))
    model = pipeline.model
    table = model.hidden_size * model.vocab_size
    tokens = pipeline.deployment.phases["prefill"].grid[0].tokens
    products = graph.column("flops")[graph.of_kind("gemm")].sum()
    expected = tokens * (total_parameters(model) - 2 * table) + table
    assert 4 * products == pytest.approx(2 * expected, rel=1e-3)


def test_decode_experts_cross_memory_at_least_once(deepseek: Plan) -> None:
    """256 sequences on each of 8 ranks touch every expert: a rank reads its eighth of them all."""
    graph = plan_graph(deepseek, Wanted(("decode",)))
    moved = graph.column("bytes")[graph.of_kind("grouped_gemm")].sum()
    assert moved > expert_parameters(deepseek.model) / 8


def test_micro_batches_and_turns_follow_each_other(pipeline: Plan) -> None:
    """Two turns of three micro-batches on four stages: sends join stages, ids come back."""
    graph = plan_graph(pipeline, Wanted(("decode",), micro_batches=3, turns=2))
    sends, receives = graph.of_kind("send_recv"), graph.of_kind("receive")
    assert sends.sum() == receives.sum() == 2 * 3 * 3
    across = sends[graph.source]
    assert across.sum() == 18
    assert (graph.stage[graph.target[across]] == graph.stage[graph.source[across]] + 1).all()
    back = (graph.stage[graph.source] == 3) & (graph.stage[graph.target] == 0)
    assert back.sum() == 3
    assert (graph.turn[graph.target[back]] == 1).all()


def test_a_collective_is_one_node_over_its_group(deepseek: Plan) -> None:
    graph = plan_graph(deepseek, Wanted(("decode",), all_ranks=True))
    exchanges = graph.of_kind("all_to_all")
    assert exchanges.sum() == 2 * 2 * 58  # dispatch and combine of each MoE layer and replica
    teams = {graph.teams[team] for team in graph.team[exchanges].tolist()}
    assert teams == {tuple(range(8)), tuple(range(8, 16))}


def test_operators_read_what_is_there() -> None:
    layer = ["attention_norms", "q_proj/k_proj/v_proj", "gqa_attention", "o_proj", "router"]
    assert issue_order(layer[::-1], "moe") == layer
    assert reads("attention_norms", layer) == ()
    assert reads("gqa_attention", layer) == ("q_proj/k_proj/v_proj",)
    assert reads("router", layer) == ("o_proj",)  # past the all-reduce and the norms


def test_a_cycle_is_named(deepseek: Plan) -> None:
    graph = plan_graph(deepseek, Wanted(("decode",)))
    source = np.append(graph.source, graph.target[0]).astype(np.int32)
    target = np.append(graph.target, graph.source[0]).astype(np.int32)
    broken: Graph = replace(
        graph,
        source=source,
        target=target,
        tensor_bytes=np.append(graph.tensor_bytes, 0.0),
        data=np.append(graph.data, True),
    )
    with pytest.raises(
        PlanError, match=r"cycle: attention_norms \(1\) -> embedding \(0\) -> attention"
    ):
        topological_order(broken)


def test_missing_experts_are_named(deepseek: Plan) -> None:
    placement = deepseek.deployment.placement
    parts = [placement.ranks[0].model_copy(update={"experts": ""}), *placement.ranks[1:]]
    broken = changed(deepseek, placement=placement.model_copy(update={"ranks": tuple(parts)}))
    graph = plan_graph(broken, Wanted(("decode",), all_ranks=True))
    with pytest.raises(PlanError, match="no rank that holds expert 0 of layer 3"):
        check_graph(graph, broken)


def test_plans_broken_by_hand_are_refused(deepseek: Plan, pipeline: Plan) -> None:
    deployment = deepseek.deployment
    table = deployment.phases["decode"]
    rows = tuple(row for row in table.rows if row.part != "moe")
    holes = changed(deepseek, phases={"decode": table.model_copy(update={"rows": rows})})
    with pytest.raises(PlanError, match=r"a hole: no operators of layer 3 \(moe\)"):
        plan_graph(holes)
    odd = (table.rows[0].model_copy(update={"name": "mystery"}), *table.rows[1:])
    unknown = changed(deepseek, phases={"decode": table.model_copy(update={"rows": odd})})
    with pytest.raises(PlanError, match="'mystery' is no operator"):
        plan_graph(unknown)
    placement = pipeline.deployment.placement
    short = placement.model_copy(update={"stage_layers": placement.stage_layers[:-1]})
    with pytest.raises(PlanError, match="3 stages for pp 4"):
        plan_graph(changed(pipeline, placement=short))
    gap = ((0, 11), *placement.stage_layers[1:])
    with pytest.raises(PlanError, match="do not hold each layer once"):
        plan_graph(changed(pipeline, placement=placement.model_copy(update={"stage_layers": gap})))
    with pytest.raises(SpecError, match="no phase 'training'; its phases are prefill, decode"):
        plan_graph(deepseek, Wanted(("training",)))

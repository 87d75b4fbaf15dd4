"""Plans whose replicas span two pools, down the whole line."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from optimizer.cost.parts import price_parts
from optimizer.cost.rows import Rows
from optimizer.cost.shares import cut_of
from optimizer.cost.spanning_accounts import spanning_memory, split_of, stages_in
from optimizer.errors import InfeasibleError
from optimizer.layout import Layouts, spanning_spaces
from optimizer.pipeline import enumerate_spaces, jobs_for, optimize
from optimizer.plan import Plan, Plans, summary, write_plan
from optimizer.report.table import plan_table
from optimizer.search.choosing import choose
from optimizer.simulate.step import steps
from optimizer.spec.cluster import Cluster, Pool
from optimizer.spec.reading import read_cluster, read_model
from optimizer.spec.workload import ForwardWorkload, ServingWorkload, TrainingWorkload
from optimizer.verify import verify_plan

LLAMA = read_model("llama-3.1-405b").model
CHAT = ServingWorkload(input_len=1024, output_len=256, concurrency=64)


def pool(preset: str, name: str, dead: tuple[str, ...] = (), gpus: int = 8) -> Pool:
    (found,) = read_cluster(preset, gpus=gpus).pools
    return Pool(
        **{key: getattr(found, key) for key in Pool.model_fields} | {"name": name, "dead": dead}
    )


HOPPER, AMPERE = pool("h100-sxm", "hopper"), pool("a100-sxm", "ampere", ("node0/gpu5",))
BOTH = Cluster(name="both", pools=(HOPPER, AMPERE))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return optimize(BOTH, LLAMA, CHAT, top=1).best


def document_of(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(write_plan(plan))
    return found


def failures(document: dict[str, Any]) -> set[str]:
    """Checks that fail, the hash's aside."""
    return {each.check for each in verify_plan(document) if not each.ok} - {"identity"}


def test_a_model_too_large_for_either_pool_runs_on_both(plan: Plan) -> None:
    """Llama 3.1 405B in 16 bits is 812 GB of weights; eight GPUs of 80 GB hold 640."""
    for one in (HOPPER, AMPERE):
        with pytest.raises(InfeasibleError, match="memory"):
            optimize(Cluster(name="one", pools=(one,)), LLAMA, CHAT, top=1)
    assert failures(document_of(plan)) == set()
    shares = plan.deployment.shares
    assert shares is not None
    assert {share.pool for share in shares} == {"hopper", "ampere"}
    assert sum(share.stages for share in shares) == plan.deployment.layout.pp
    assert sum(share.layers for share in shares) == LLAMA.num_layers
    assert "none of the layouts searched keeps every limit in one pool" in plan.notes
    assert "ampere/node0/gpu5" not in {
        gpu for row in plan.deployment.placement.rank_gpu for gpu in row
    }


def test_tables_say_which_pools_a_plan_uses(plan: Plan) -> None:
    head, row = plan_table(Plans((plan,))).splitlines()
    assert "pools" in head
    assert plan.pools in row
    assert plan.pools.split(" + ") == [share.pool for share in plan.deployment.shares or ()]
    assert summary(plan)["pools"] == plan.pools
    alone = optimize(Cluster(name="one", pools=(HOPPER,)), read_model("llama-3.1-8b").model, CHAT)
    assert "pools" not in plan_table(alone).splitlines()[0]


def test_the_faster_pool_takes_more_layers_a_stage() -> None:
    """16 H200 beside 8 H100: stages of 141 GB hold more of the model, and of the cache."""
    cluster = Cluster(name="two", pools=(pool("h200-sxm", "large"), pool("h100-sxm", "small")))
    best = optimize(cluster, LLAMA, CHAT, top=1, strategy="PP2-TP8").best
    layers = {share.pool: share.layers for share in best.deployment.shares or ()}
    assert layers["large"] > layers["small"]
    limits = {stage.limit_bytes for stage in best.deployment.memory.stages}
    assert len(limits) == 2
    assert failures(document_of(best)) == set()


def test_pools_of_equal_gpus_are_as_good_as_one_pool() -> None:
    """Two pools of a node each, joined like the nodes of one pool: the same figures."""
    model = read_model("llama-3.1-8b").model
    apart = Cluster(name="apart", pools=(pool("h100-sxm", "a"), pool("h100-sxm", "b")))
    whole = read_cluster("h100-sxm", gpus=16)
    rates = [
        optimize(each, model, CHAT, top=1, strategy="PP2-TP8")
        .best.predictions["tokens_per_s"]
        .value
        for each in (apart, whole)
    ]
    assert rates[0] >= rates[1]
    assert rates[0] == pytest.approx(rates[1], rel=0.01)


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x22b"])
@pytest.mark.parametrize("kind", ["serving", "forward"])
def test_two_pools_are_never_worse_than_the_better_one(name: str, kind: str) -> None:
    model = read_model(name).model
    workload = CHAT if kind == "serving" else ForwardWorkload(batch=32, seq_len=1024)
    values = []
    for pools in ((HOPPER, AMPERE), (HOPPER,), (AMPERE,)):
        try:
            best = optimize(Cluster(name="some", pools=pools), model, workload, top=1).best
        except InfeasibleError:
            continue
        assert failures(document_of(best)) == set()
        values.append(best.predictions["tokens_per_s"].value)
    assert values[0] >= max(values[1:]) * (1 - 1e-9)


def test_a_faster_link_between_pools_is_never_slower(plan: Plan) -> None:
    name = plan.name
    figures = {key: getattr(BOTH, key) for key in ("name", "pools")}
    times = []
    for bandwidth in ("1 GB/s", "10 GB/s", "100 GB/s"):
        link = {"bandwidth": bandwidth, "latency": "5 us"}
        cluster = Cluster(**figures, inter_pool=link)
        found = optimize(cluster, LLAMA, CHAT, top=1, strategy=f"canonical:{name}").best
        times.append(found.predictions["request_s"].value)
    assert times == sorted(times, reverse=True)
    assert times[0] > times[2]


def test_the_layouts_of_two_pools_are_counted_by_hand() -> None:
    """One way to lie: 3 and 2 GPUs a pool hold 1-3 and 1-2 stages; of 4 layers 5 splits fit one
    order and 5 the other: 1+1, 1+2, 2+1, 2+2, 3+1."""
    cluster = Cluster(
        name="few", pools=(pool("h100-sxm", "a", gpus=3), pool("h100-sxm", "b", gpus=2))
    )
    one = np.ones(1, dtype=np.int64)
    stage = Layouts(one, one, one, one, one, one, one, one - 1)
    found = spanning_spaces(cluster, [stage, stage], 4)
    splits = {
        (space.pools, int(pp), int(own))
        for space in found
        for pp, own in zip(space.layouts.pp, space.split.stages, strict=True)
    }
    first = {(2, 1), (3, 1), (3, 2), (4, 2), (4, 3)}
    assert splits == {((0, 1), *each) for each in first} | {
        ((1, 0), pp, pp - own) for pp, own in first
    }


def test_what_is_not_searched_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many layouts, the deepest left out first; and no more than six pools."""
    model = read_model("llama-3.1-8b").model
    every = optimize(BOTH, model, CHAT, top=1).best
    assert not any("two pools" in note for note in every.notes)
    monkeypatch.setattr("optimizer.layout.spanning.MOST_LAYOUTS", 20)
    monkeypatch.setattr("optimizer.verify.space.MOST_SPANNING", 20)
    few = optimize(BOTH, model, CHAT, top=1).best
    (note,) = [note for note in few.notes if "replicas that span two pools" in note]
    left = int(note.partition("stages, ")[2].split()[0])
    assert every.proof.layouts - few.proof.layouts == left
    assert failures(document_of(few)) == set()
    pools = tuple(pool("h100-sxm", f"pool{index}", gpus=1) for index in range(7))
    many = optimize(Cluster(name="many", pools=pools), model, CHAT, top=1).best
    assert "replicas that span two pools: not searched in more than 6 pools" in many.notes
    assert failures(document_of(many)) == set()


def test_with_a_confidence_replicas_keep_to_one_pool() -> None:
    model = read_model("llama-3.1-8b").model
    best = optimize(BOTH, model, CHAT, top=1, confidence=0.9).best
    assert best.deployment.shares is None
    assert any("each replica lies in one pool" in note for note in best.notes)


def test_training_keeps_to_one_pool() -> None:
    spaces = enumerate_spaces(BOTH, LLAMA, TrainingWorkload(global_batch=8, sequence_length=128))
    assert len(spaces) == len(BOTH.pools)


def test_the_simulator_runs_a_replica_of_two_pools(plan: Plan) -> None:
    """A step by its own collectives, over the link between the pools, beside the plan's."""
    found = {run.phase: run for run in steps(plan)}
    assert set(found) == {"prefill", "decode"}
    for run in found.values():
        assert run.step_s == pytest.approx(run.planned_s, rel=0.1)
        names = [each.name for each in run.run.graph.operations]
        assert names.count("pool_send") == names.count("pool_receive") == 1


def test_layers_moved_until_a_pool_overflows_are_refused(plan: Plan) -> None:
    """Weights, caches and sums all tell of the other cut; what its GPUs hold does not."""
    spaces = enumerate_spaces(BOTH, LLAMA, CHAT, f"canonical:{plan.name}")
    jobs = jobs_for(BOTH, LLAMA, CHAT, spaces)
    (best,) = choose(BOTH, price_parts(jobs, spaces, 1), "throughput", 1).ranked
    job = jobs[int(best.candidate.precision[0])]
    split, layers = split_of(job, best.candidate)
    one = best.candidate
    rows = Rows(
        *(np.zeros(1, dtype=np.int64), one.sequences, one.chunk, one.micro_batches),
        *(one.replicas_min, one.replicas_max),
    )
    fits = {}
    for count in (layers, layers + 20):
        document, memory = document_of(plan), spanning_memory(job, rows, split, count)
        deployment = document["deployments"][0]
        deployment["memory"] = memory.model_dump(mode="json")
        cut = np.cumsum((0, *cut_of(LLAMA, stages_in(job, split), count))).tolist()
        deployment["placement"]["stage_layers"] = [list(pair) for pair in pairwise(cut)]
        broken = failures(document)
        assert not broken & {"weights", "cache", "stages"}
        fits[count] = "memory sums" not in broken
    assert fits == {layers: True, layers + 20: False}


def moved_layer(document: dict[str, Any]) -> None:
    """One layer more on the first stage of the second pool, one less on the last of the first."""
    cut = document["deployments"][0]["placement"]["stage_layers"]
    own = document["deployments"][0]["shares"][0]["stages"]
    cut[own - 1][1] -= 1
    cut[own][0] -= 1


def swapped_gpus(document: dict[str, Any]) -> None:
    row = document["deployments"][0]["placement"]["rank_gpu"][0]
    row[0], row[-1] = row[-1], row[0]


def dead_gpu(document: dict[str, Any]) -> None:
    row = document["deployments"][0]["placement"]["rank_gpu"][0]
    place = next(i for i, gpu in enumerate(row) if gpu.startswith("ampere"))
    row[place] = "ampere/node0/gpu5"


def swapped_limits(document: dict[str, Any]) -> None:
    """Every stage is judged by more memory than its GPU has."""
    for stage in document["deployments"][0]["memory"]["stages"]:
        stage["limit_bytes"] *= 2


def swapped_pools(document: dict[str, Any]) -> None:
    shares = document["deployments"][0]["shares"]
    shares[0]["pool"], shares[1]["pool"] = shares[1]["pool"], shares[0]["pool"]


def free_crossing(document: dict[str, Any]) -> None:
    for table in document["deployments"][0]["phases"].values():
        table["rows"] = [row for row in table["rows"] if row["name"] != "pool_send"]


def rows_of_the_faster_pool(document: dict[str, Any]) -> None:
    for table in document["deployments"][0]["phases"].values():
        for row in table["rows"]:
            row["pool"] = "hopper"


def one_pool_only(document: dict[str, Any]) -> None:
    del document["deployments"][0]["shares"]


def smaller_gpus(document: dict[str, Any]) -> None:
    """The second pool's stages no longer fit it, whatever the first has left."""
    pools = document["cluster"]["pools"]
    next(each for each in pools if each["name"] == "ampere")["gpu"]["memory"] = "40 GB"


def uncounted_layouts(document: dict[str, Any]) -> None:
    document["proof"]["layouts"] -= 1


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (moved_layer, "weights"),
        (swapped_gpus, "pools"),
        (dead_gpu, "gpu counts"),
        (swapped_limits, "memory sums"),
        (swapped_pools, "pools"),
        (free_crossing, "crossings"),
        (rows_of_the_faster_pool, "table shape"),
        (one_pool_only, "gpu counts"),
        (smaller_gpus, "memory sums"),
        (uncounted_layouts, "space"),
    ],
)
def test_a_wrong_plan_over_two_pools_is_refused(plan: Plan, change: Any, check: str) -> None:
    document = document_of(plan)
    change(document)
    assert check in failures(document)

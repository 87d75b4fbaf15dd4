"""The event engine against what can be worked out by hand, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.simulate.collectives import Tier, ring_all_reduce_seconds
from optimizer.simulate.engine import Run, run_graph
from optimizer.simulate.graph.graph import Graph, Operation, Rank, topological_order
from optimizer.simulate.graph.training import ChunkTimes, Pipeline, training_graph
from optimizer.simulate.measuring import rank_times, replayed_memory


def operation(seconds: float, kind: str = "gemm", written: float = 0.0, **more: int) -> Operation:
    return Operation("x", "layer", "decode", kind, seconds=seconds, tensor_bytes=written, **more)


def graph_of(
    nodes: list[tuple[Operation, tuple[int, ...]]], edges: list[tuple[int, int]], ranks: int = 2
) -> Graph:
    """A node an operation, on a team of ranks; every edge hands on data."""
    teams = list(dict.fromkeys(team for _, team in nodes))
    count = len(nodes)
    nothing = np.zeros(count, dtype=np.int32)
    ends = np.array(edges, dtype=np.int32).reshape(-1, 2)
    return Graph(
        operations=tuple(each for each, _ in nodes),
        ranks=tuple(Rank(f"gpu{i}", 0, 0, i, 0, 1, "") for i in range(ranks)),
        teams=tuple(teams),
        operation=np.arange(count, dtype=np.int32),
        team=np.array([teams.index(team) for _, team in nodes], dtype=np.int32),
        layer=nothing,
        stage=nothing,
        micro_batch=nothing,
        turn=nothing,
        source=ends[:, 0],
        target=ends[:, 1],
        tensor_bytes=np.zeros(len(edges)),
        data=np.ones(len(edges), dtype=np.bool_),
    )


def test_a_collective_waits_for_its_last_rank() -> None:
    """Rank 0 comes after 1 s, rank 1 after 3 s; both go on at 5 s; rank 0 waits 2 s."""
    both = (0, 1)
    graph = graph_of(
        [
            (operation(1.0), (0,)),
            (operation(3.0), (1,)),
            (operation(2.0, "all_reduce", group_size=2, inside=2), both),
            (operation(1.0), (0,)),
        ],
        [(0, 2), (1, 2), (2, 3)],
    )
    run = run_graph(graph)
    assert run.start_s.tolist() == [0, 0, 3, 5]
    times = rank_times(run)
    assert times.compute_s.tolist() == [2, 3]
    assert times.exposed_s.tolist() == [2, 2]
    assert times.idle_s.tolist() == [2, 1]


def test_hidden_communication_is_not_exposed() -> None:
    """4 s of exchange beside 3 s of compute: 1 s shows."""
    graph = graph_of(
        [(operation(4.0, "all_reduce", group_size=2, inside=2), (0, 1)), (operation(3.0), (0,))],
        [],
    )
    times = rank_times(run_graph(graph))
    assert times.communication_s.tolist() == [4, 4]
    assert times.exposed_s.tolist() == [1, 4]


def test_a_stream_runs_one_operator_at_a_time_in_order_of_readiness() -> None:
    """Node 3 is ready at 1 s, node 2 at 2 s: node 3 goes first though its number is higher."""
    graph = graph_of(
        [
            (operation(1.0), (1,)),
            (operation(2.0), (0,)),
            (operation(5.0), (0,)),
            (operation(1.0), (0,)),
        ],
        [(1, 2), (0, 3)],
    )
    assert run_graph(graph).start_s.tolist() == [0, 0, 3, 2]


def test_a_shared_link_is_shared_evenly() -> None:
    """A collective of 4 s and a transfer of 1 s on one link: both at half speed for 2 s, then the
    collective alone for its last 3 s. On another tier the transfer takes nothing from it."""
    for inside, ends in ((2, [5.0, 2.0]), (1, [4.0, 1.0])):
        graph = graph_of(
            [
                (operation(4.0, "all_reduce", group_size=2, inside=2), (0, 1)),
                (operation(1.0, "send_recv", group_size=2, inside=inside), (0,)),
            ],
            [],
        )
        assert run_graph(graph).end_s.tolist() == pytest.approx(ends)


def test_the_dead_take_those_along_that_wait_for_them() -> None:
    """Rank 0 dies at 1.5 s in its second operator; rank 1's own work ends, the collective never."""
    graph = graph_of(
        [
            (operation(1.0), (0,)),
            (operation(1.0), (0,)),
            (operation(3.0), (1,)),
            (operation(1.0, "all_reduce", group_size=2, inside=2), (0, 1)),
        ],
        [(0, 1), (1, 3), (2, 3)],
    )
    run = run_graph(graph, deaths={0: 1.5})
    assert np.isfinite(run.end_s).tolist() == [True, False, True, False]
    assert run.seconds == 3.0
    assert not run.complete


def test_memory_is_held_until_the_last_reader_ends() -> None:
    """10 B for 0-4 s (its reader ends then), 4 B for 1-4 s, 1 B for 4-5 s: 14 B at the peak."""
    graph = graph_of(
        [
            (operation(1.0, written=10.0), (0,)),
            (operation(1.0, written=4.0), (0,)),
            (operation(2.0), (0,)),
            (operation(1.0, written=1.0), (0,)),
        ],
        [(0, 1), (0, 2), (1, 2), (2, 3)],
    )
    memory = replayed_memory(run_graph(graph))
    assert memory.peak_bytes.tolist() == [14.0, 0.0]
    assert memory.held_bytes[0][-1] == 0.0
    assert memory.times_s[0][-1] == 5.0


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_ring_all_reduce_takes_what_its_closed_form_says(ranks: int) -> None:
    """2 (n - 1) rounds; in each, every rank sends 1/n of the tensor to the next one."""
    tier, whole = Tier(50e9, 10e-6), 64e6
    message = tier.seconds(1, whole / ranks)
    nodes: list[tuple[Operation, tuple[int, ...]]] = []
    edges = []
    for step in range(2 * (ranks - 1)):
        for rank in range(ranks):
            nodes.append((operation(message, "send_recv", group_size=2, inside=2), (rank,)))
            if step:
                last = (step - 1) * ranks
                edges.append((last + (rank - 1) % ranks, step * ranks + rank))
    run = run_graph(graph_of(nodes, edges, ranks))
    assert run.seconds == pytest.approx(ring_all_reduce_seconds(whole, ranks, tier), rel=0.01)


def pipeline_run(pipeline: Pipeline) -> Run:
    ranks = [Rank(f"gpu{i}", 0, 0, i, i, 1, "") for i in range(pipeline.stages)]
    graph = training_graph(pipeline, ranks)
    assert len(topological_order(graph)) == len(graph)
    return run_graph(graph)


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 4), (2, 4), (4, 8), (8, 8), (8, 64)])
def test_1f1b_takes_m_plus_p_less_one_passes(stages: int, micro_batches: int) -> None:
    """(m + p - 1) (F + B); the bubble is (p - 1) / m of the work (Narayanan et al., 2021)."""
    run = pipeline_run(Pipeline("1f1b", stages, micro_batches, (ChunkTimes(1.1, 2.3),) * stages))
    assert run.seconds == pytest.approx((micro_batches + stages - 1) * 3.4)
    idle = rank_times(run).idle_s / (micro_batches * 3.4)
    assert idle == pytest.approx(np.full(stages, (stages - 1) / micro_batches))


@pytest.mark.parametrize(("stages", "chunks", "micro_batches"), [(2, 2, 4), (4, 3, 16), (8, 4, 32)])
def test_interleaving_divides_the_bubble(stages: int, chunks: int, micro_batches: int) -> None:
    """(p - 1) (F + B) / v of bubble, where F and B are of a stage's v chunks together."""
    times = (ChunkTimes(1.0 / chunks, 2.0 / chunks),) * (stages * chunks)
    run = pipeline_run(Pipeline("interleaved", stages, micro_batches, times))
    assert run.seconds == pytest.approx(3 * micro_batches + (stages - 1) * 3 / chunks)


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 4), (2, 4), (4, 8), (8, 8), (4, 16)])
@pytest.mark.parametrize(("forward", "weights"), [(1.0, 1.0), (1.0, 0.8), (1.2, 0.7)])
def test_zero_bubble_fills_the_drain_with_weight_gradients(
    stages: int, micro_batches: int, forward: float, weights: float
) -> None:
    """ZB-H1's bubble is (p - 1) (F + B - W), B of the inputs alone (Qi et al., 2023), where W is no
    longer than F."""
    inputs = 1.1
    times = (ChunkTimes(forward, inputs + weights, weights),) * stages
    run = pipeline_run(Pipeline("zero_bubble", stages, micro_batches, times))
    work = micro_batches * (forward + inputs + weights)
    assert run.seconds == pytest.approx(work + (stages - 1) * (forward + inputs - weights))


@pytest.mark.parametrize("schedule", ["1f1b", "zero_bubble"])
def test_stages_keep_what_their_schedule_lets_them(schedule: str) -> None:
    """1F1B keeps p - s micro-batches on stage s; ZB-H1 no more than p on any."""
    times = (ChunkTimes(1.0, 2.0, 1.0, kept_bytes=1.0),) * 4
    peaks = replayed_memory(pipeline_run(Pipeline(schedule, 4, 16, times))).peak_bytes
    if schedule == "1f1b":
        assert peaks.tolist() == [4, 3, 2, 1]
    assert peaks.max() == 4


@given(
    st.sampled_from([("1f1b", 1), ("interleaved", 2), ("zero_bubble", 1)]),
    st.integers(1, 4),
    st.integers(1, 9),
    st.lists(st.tuples(st.floats(0.1, 2), st.floats(0.2, 4)), min_size=8, max_size=8),
    st.floats(0, 0.5),
)
def test_no_schedule_beats_its_slowest_stage(
    schedule: tuple[str, int],
    stages: int,
    micro_batches: int,
    times: list[tuple[float, float]],
    send_s: float,
) -> None:
    """Uneven stages and messages: a step is never shorter than any stage's work, nor than one
    micro-batch's way there and back, and runs every pass once."""
    name, per_stage = schedule
    chunks = tuple(ChunkTimes(f, b, b / 2) for f, b in times[: stages * per_stage])
    run = pipeline_run(Pipeline(name, stages, micro_batches, chunks, send_s, 1.0))
    assert run.complete
    work = [
        micro_batches * sum(c.forward_s + c.backward_s for c in chunks[stage::stages])
        for stage in range(stages)
    ]
    weights = chunks[0].weight_gradient_s if name == "zero_bubble" else 0.0
    around = sum(c.forward_s + c.backward_s for c in chunks) - sum(
        c.weight_gradient_s for c in chunks if name == "zero_bubble"
    )
    sends = 2 * (len(chunks) - 1) * send_s if stages > 1 else 0.0
    assert run.seconds >= max(*work, around + weights + sends) * (1 - 1e-9)
    assert rank_times(run).compute_s == pytest.approx(np.array(work))

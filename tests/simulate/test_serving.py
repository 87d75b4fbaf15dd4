"""Continuous batching worked by hand, and against closed forms of queueing theory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_instances import NO_ENTRY, at, pipeline, replica, times

from optimizer.cost.serving import Pipe, bubbles
from optimizer.simulate.serving.arrivals import Load, Request, closed_loop, poisson
from optimizer.simulate.serving.lane import Lane, Run
from optimizer.simulate.serving.simulation import Record, simulate


def _seconds(record: Record) -> tuple[list[float], list[float]]:
    return list(record.first_s), list(record.finish_s)


def test_one_request_is_a_prefill_and_then_a_step_a_token() -> None:
    record = simulate([replica(times(1.0, 0.1))], at((2.0, 8, 4)), NO_ENTRY)
    first, finish = _seconds(record)
    assert first == pytest.approx([3.0])
    assert finish == pytest.approx([3.3])


def test_a_mixed_step_decodes_while_it_prefills() -> None:
    """0-1 prefill of the first; its 2nd token at 1.1; 1.1-2.1 the second's prefill with the 3rd
    token; both decode from 2.1 on."""
    record = simulate([replica(times(1.0, 0.1))], at((0.0, 8, 4), (1.05, 8, 3)), NO_ENTRY)
    assert _seconds(record)[0] == pytest.approx([1.0, 2.1])
    assert _seconds(record)[1] == pytest.approx([2.2, 2.3])


def test_prefill_first_stops_decoding_meanwhile() -> None:
    load = at((0.0, 8, 4), (1.05, 8, 3))
    record = simulate([replica(times(1.0, 0.1), mixed=False)], load, NO_ENTRY)
    assert _seconds(record)[0] == pytest.approx([1.0, 2.1])
    assert _seconds(record)[1] == pytest.approx([2.3, 2.3])


def test_a_long_prompt_takes_several_chunks() -> None:
    record = simulate([replica(times(1.0, 0.1), chunk=10)], at((0.0, 25, 1)), NO_ENTRY)
    assert _seconds(record)[0] == pytest.approx([3.0])


def test_decoding_requests_leave_less_of_the_chunk_to_prompts() -> None:
    """Nine tokens a step are left beside the one that decodes: 18 take two steps, 19 three."""
    for tokens, steps in ((18, 2), (19, 3)):
        load = at((0.0, 10, 50), (1.0, tokens, 1))
        record = simulate([replica(times(1.0, 0.1), chunk=10)], load, NO_ENTRY)
        assert record.first_s[1] == pytest.approx(1.0 + steps)


def test_a_scheduler_that_looks_every_ten_steps_sees_a_request_late() -> None:
    """The first decodes from 1.0 on; what comes at 1.35 is noticed after ten steps, at 2.0."""
    load = at((0.0, 8, 40), (1.35, 8, 1))
    for poll_steps, noticed in ((1, 1.4), (10, 2.0)):
        one = replica(times(1.0, 0.1))
        one.lanes[0].poll_steps = poll_steps
        assert simulate([one], load, NO_ENTRY).first_s[1] == pytest.approx(noticed + 1.0)


def test_a_frontend_sends_no_more_tokens_than_it_can() -> None:
    """Eight clients make 80 tokens a second, the frontend sends 40: twice the time, and the first
    tokens of later requests wait behind what is not sent yet."""
    load = closed_loop([(4, 11)] * 80, 8)
    free = simulate([replica(times(0.0, 0.1))], load, NO_ENTRY)
    slow = simulate([replica(times(0.0, 0.1))], load, NO_ENTRY._replace(token_s=1 / 40))
    assert free.end_s == pytest.approx(10.0)
    assert slow.end_s == pytest.approx(80 * 11 / 40, rel=0.02)
    assert slow.in_flight_s / slow.end_s == pytest.approx(8.0)
    assert max(np.array(slow.first_s) - np.array(slow.arrival_s)) > 0.1


def test_slots_hold_back_what_the_cache_has_room_for() -> None:
    record = simulate([replica(times(1.0, 0.1), slots=1)], at((0.0, 8, 2), (0.0, 8, 2)), NO_ENTRY)
    assert _seconds(record)[0] == pytest.approx([1.0, 2.1])


def test_a_full_cache_sends_the_latest_back_and_computes_it_again() -> None:
    """Two prompts of 4 fill 2 of 3 blocks of 4; the first step of decoding needs two more, so that
    the second waits until the first is done, and its prompt with one token made is computed
    again."""
    step = times(1.0, 0.1)
    load = at((0.0, 4, 4), (0.0, 4, 4))
    record = simulate([replica(step, blocks=3, mixed=False)], load, NO_ENTRY)
    assert record.preemptions == 1
    assert _seconds(record)[1] == pytest.approx([1.3, 1.3 + 1.0 + 0.2])


def test_ranks_share_a_step_and_not_their_queues() -> None:
    """Four equal requests on two ranks of one slot each: two at once, twice."""
    step = times(1.0, 0.1)
    load = at(*[(0.0, 8, 1)] * 4)
    record = simulate([replica(step, chunk=8, ranks=2)], load, NO_ENTRY)
    assert sorted(record.finish_s) == pytest.approx([1.0, 1.0, 2.0, 2.0])


def test_a_prompt_waits_until_every_attention_rank_has_one() -> None:
    """Both ranks decode from 1.0 on, 0.1 a step. What comes at 1.45 waits for what comes at 1.75,
    and both are answered at 2.8; alone it waits five steps, until 2.0, and is answered at 3.0."""
    both = [(0.0, 8, 60), (0.0, 8, 60), (1.45, 8, 1)]
    for others, first in (([(1.75, 8, 1)], 2.8), ([], 3.0)):
        record = simulate(
            [replica(times(1.0, 0.1), ranks=2, align_steps=5)], at(*both, *others), NO_ENTRY
        )
        assert list(record.first_s[2:]) == pytest.approx([first] * (1 + len(others)))


def test_chunks_of_a_prompt_follow_each_other_through_the_stages() -> None:
    """Three chunks over four stages of a second each: 4 + 2 s, whichever micro-batches take them;
    the second request goes along in the micro-batch behind the last chunk, and the second token of
    the first is held up by it on the last stage."""
    load = at((0.0, 30, 2), (0.0, 10, 1))
    record = simulate([pipeline(times(1.0, 0.1), 4, 4, chunk=10)], load, NO_ENTRY)
    assert _seconds(record)[0] == pytest.approx([6.0, 7.0])
    assert record.finish_s[0] == pytest.approx(7.1)


def test_a_request_goes_along_in_the_micro_batch_that_comes_next() -> None:
    """One micro-batch of two is on its way when another request comes: it does not wait for it."""
    load = at((0.0, 4, 10), (1.0, 4, 2))
    record = simulate([pipeline(times(1.0, 1.0), 2, 2, chunk=8)], load, NO_ENTRY)
    assert record.first_s[1] == pytest.approx(3.0)


def test_micro_batches_share_the_blocks_of_their_rank() -> None:
    """Two requests of 3 blocks at the end, 5 blocks: the second is computed again in the end."""
    piped = pipeline(times(1.0, 0.1), 2, 2, chunk=8)
    piped.lanes[0].ranks[0].cache.pool.num_blocks = 5
    record = simulate([piped], at((0.0, 4, 8), (0.0, 4, 8)), NO_ENTRY)
    assert record.preemptions >= 1
    assert not np.isnan(np.array(record.finish_s)).any()
    assert piped.lanes[0].ranks[0].cache.pool.used == 0


def test_a_slow_micro_batch_holds_up_the_pipeline_behind_it() -> None:
    """Requests at random in a full pipeline: a round takes what the planner adds for bubbles, ten
    per cent aside, and never less than the slowest micro-batch's way through all stages."""
    stages, clients, output = 8, 64, 128
    draw = np.random.default_rng(0)
    lengths = [(100, int(n)) for n in draw.integers(output // 2, output * 3 // 2, 20 * clients)]
    piped = pipeline(times(0.03, 0.01), stages, stages, chunk=107, slots=clients // stages)
    record = simulate([piped], closed_loop(lengths, clients), NO_ENTRY)
    outputs = np.array([tokens for _, tokens in lengths])
    tpot = (np.array(record.finish_s) - np.array(record.first_s)) / (outputs - 1)
    found = float(tpot[5 * clients : 15 * clients].mean())
    steps = (stages, 0.01, stages * 0.01, 0.02, stages * 0.02, 1.0)
    pipe = Pipe(*(np.array([each]) for each in steps))
    prompts = np.array([clients / output])
    expected = stages * 0.01 + float((prompts * 0.02 + bubbles(pipe, prompts))[0])
    assert found == pytest.approx(expected, rel=0.1)
    assert expected > 1.4 * (stages * 0.01 + 0.02 * clients / output)


def test_waiting_of_m_d_1_is_within_one_percent() -> None:
    """Service of one second each, one at a time, arrivals at half that rate: rho / (2 (1 - rho))
    (Pollaczek and Khinchine)."""
    load = poisson([(8, 1)] * 60_000, 0.5, seed=1)
    record = simulate([replica(times(1.0), chunk=8)], load, NO_ENTRY)
    waiting = np.array(record.first_s) - np.array(record.arrival_s) - 1.0
    assert waiting.mean() == pytest.approx(0.5 / (2 * 0.5), rel=0.01)


def test_waiting_is_lindleys_recursion_on_the_same_arrivals() -> None:
    load = poisson([(8, 1)] * 3_000, 0.8, seed=0)
    record = simulate([replica(times(1.0), chunk=8)], load, NO_ENTRY)
    free = 0.0
    for request, first in zip(load.requests, record.first_s, strict=True):
        free = max(free, request.arrival_s) + 1.0
        assert first == pytest.approx(free)


def test_littles_law_holds() -> None:
    load = poisson([(8, 20)] * 2_000, 3.0, seed=1)
    record = simulate([replica(times(0.05, 0.01), slots=8)], load, NO_ENTRY)
    sojourn = np.array(record.finish_s) - np.array(record.arrival_s)
    rate = len(load.requests) / record.end_s
    assert record.in_flight_s / record.end_s == pytest.approx(rate * sojourn.mean(), rel=1e-6)


def test_a_closed_loop_keeps_its_clients_busy() -> None:
    """Four clients, no prefill time: 4 tokens a step for ever."""
    load = closed_loop([(4, 11)] * 40, 4)
    record = simulate([replica(times(0.0, 0.1))], load, NO_ENTRY)
    assert record.end_s == pytest.approx(10 * 10 * 0.1, rel=1e-9)
    assert record.in_flight_s / record.end_s == pytest.approx(4.0)


REQUESTS = st.lists(
    st.tuples(st.floats(0, 8), st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=25
)


def _one_step(lane: Lane, plan: Any = Lane.plan) -> Run | None:
    run: Run | None = plan(lane)
    if run is not None:
        run.steps = 1
    return run


@given(requests=REQUESTS, mixed=st.booleans(), ranks=st.integers(1, 3), blocks=st.integers(18, 60))
def test_joined_decode_steps_end_when_single_ones_do(
    requests: list[tuple[float, int, int]], mixed: bool, ranks: int, blocks: int
) -> None:
    """Whether decode steps are taken one by one or as runs, each request ends at the same time;
    every block is free at the end."""
    step = times(0.3, 0.05, token_s=0.01, context_s=0.001)
    load = Load("trace", tuple(Request(*each) for each in sorted(requests)))
    found = []
    for single in (False, True):
        one = replica(step, chunk=32, mixed=mixed, ranks=ranks, blocks=blocks)
        with pytest.MonkeyPatch.context() as patch:
            if single:
                patch.setattr(Lane, "plan", _one_step)
            record = simulate([one], load, NO_ENTRY)
        assert not np.isnan(np.array(record.finish_s)).any()
        assert [rank.cache.pool.used for rank in one.lanes[0].ranks] == [0] * ranks
        found.append((_seconds(record), record.preemptions))
    assert found[0][0][0] == pytest.approx(found[1][0][0])
    assert found[0][0][1] == pytest.approx(found[1][0][1])
    assert found[0][1] == found[1][1]

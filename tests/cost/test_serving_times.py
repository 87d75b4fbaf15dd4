"""The steady state by hand, and what it must keep whatever the constants are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cost.calibration import Constants, load_calibration
from optimizer.cost.serving import (
    Pipe,
    Prefill,
    ServingTimes,
    bubbles,
    decode_cycle,
    gathering,
    serving_times,
)

PLAIN = Constants(*(0.0 for _ in Constants._fields))._replace(
    prefill_work=1.0, lockstep_tokens=700.0
)


def times(
    running: float, constants: Constants, busy_s: float = 0.1, decode_s: float = 0.02
) -> ServingTimes:
    one = np.array([busy_s])
    return serving_times(
        np.array([decode_s]), Prefill(one, one), np.array([running]), 0.0, 101.0, constants
    )


def test_a_lone_request_waits_for_itself() -> None:
    found = times(1.0, PLAIN._replace(ttft_base_s=0.03))
    assert found.tpot_s == pytest.approx(0.02)
    assert found.ttft_s == pytest.approx(0.03 + 0.1 + 0.02 / 2)
    assert found.request_s == pytest.approx(found.ttft_s + 100 * 0.02)


def test_the_prefills_of_others_interrupt_decoding() -> None:
    # 11 requests, 101 tokens each: 10 x 0.1 s spread over 101 tokens
    found = times(11.0, PLAIN)
    assert found.tpot_s == pytest.approx(0.02 + 10 * 0.1 / 101)


def test_a_tenth_of_the_others_comes_at_once_and_some_by_chance() -> None:
    quiet, busy = times(26.0, PLAIN), times(26.0, PLAIN._replace(first_wave=0.1, bunching=0.2))
    assert busy.ttft_s - quiet.ttft_s == pytest.approx((0.1 * 25 + 0.2 * 5) * 0.1)
    assert busy.tpot_s == quiet.tpot_s


def test_requests_in_step_wait_before_the_first_token_and_not_between_tokens() -> None:
    apart, in_step = times(20.0, PLAIN), times(20.0, PLAIN._replace(lockstep=0.5))
    assert in_step.tpot_s < apart.tpot_s
    assert in_step.ttft_s > apart.ttft_s


def test_waiting_for_the_cache_takes_turns_of_a_whole_answer() -> None:
    one = np.array([0.1])
    found = serving_times(np.array([0.02]), Prefill(one, one), np.array([1.0]), 2.0, 101.0, PLAIN)
    assert found.ttft_s == pytest.approx(0.1 + 0.01 + 2 * 101 * 0.02)


def test_a_host_serves_the_ranks_of_one_node() -> None:
    constants = PLAIN._replace(sequence_s=1e-3)
    step, running = np.array([0.03]), np.array([10.0])

    def cycle(dp: float, tp: float) -> float:
        return float(decode_cycle(step, running, np.array([dp]), np.array([tp]), constants)[0])

    assert cycle(4.0, 1.0) == pytest.approx(0.05)  # hypot(30 ms, 10 x 4 ms)
    assert cycle(64.0, 1.0) == cycle(8.0, 1.0)
    assert cycle(8.0, 8.0) == cycle(1.0, 8.0)


@given(st.floats(1, 2000), st.floats(1e-4, 1.0), st.floats(1e-4, 0.2))
def test_no_replica_prefills_more_than_it_has_time_for(
    running: float, busy_s: float, decode_s: float
) -> None:
    for engine in ("vllm", "sglang", "trtllm", "any"):
        constants = load_calibration().constants_of(engine, "hopper")
        found = times(running, constants, busy_s, decode_s)
        assert found.request_s[0] >= running * busy_s * (1 - 1e-9)
        more = times(running * 1.5, constants, busy_s, decode_s)
        assert more.tpot_s[0] >= found.tpot_s[0]
        assert more.ttft_s[0] >= found.ttft_s[0]


def test_prompts_that_wait_share_a_chunk_through_the_whole_pipeline() -> None:
    """Ten stages of 0.1 s: a second prompt in the chunk keeps both 0.9 s longer on their way."""
    one, chunk = np.array([1.0]), np.array([1.0])
    alone = Prefill(one, 0.1 * one)
    shared = Prefill(one, 0.1 * one, 0.9 * one, chunk)
    running = np.array([500.0])
    found = [
        serving_times(np.array([0.02]), each, running, 0.0, 101.0, PLAIN)
        for each in (alone, shared)
    ]
    ahead = (found[0].ttft_s - PLAIN.ttft_base_s - 1.0 - found[0].tpot_s / 2) / 0.1
    more = np.minimum(1.0, ahead) * 0.9
    assert found[1].ttft_s - found[0].ttft_s == pytest.approx(more)
    assert found[1].tpot_s == found[0].tpot_s


def pipe_of(stages: int, lanes: int, chunk_s: float) -> Pipe:
    """Equal stages, a second each of decoding."""
    steps = (lanes, 1.0, stages, chunk_s, stages * chunk_s, 1.0)
    return Pipe(*(np.array([float(each)]) for each in steps))


def tandem_round(stages: int, lanes: int, decode_s: float, chunk_s: float, share: float) -> float:
    """Seconds of a round of `lanes` customers in a closed tandem of FIFO queues, each slow on every
    stage with probability `share`: Lindley's recursion, stage by stage."""
    draw = np.random.default_rng(0)
    count = 20_000
    services = decode_s + chunk_s * (draw.random(count) < share)
    free, back = [0.0] * stages, [0.0] * lanes
    for number, service in enumerate(services.tolist()):
        at = back[number % lanes]
        for stage in range(stages):
            at = max(at, free[stage]) + service
            free[stage] = at
        back[number % lanes] = at
    return max(back) / count * lanes


@pytest.mark.parametrize(("stages", "lanes"), [(4, 4), (10, 10), (4, 8), (8, 4)])
@pytest.mark.parametrize("prompts", [0.1, 0.6, 2.0])
@pytest.mark.parametrize("chunk_s", [0.5, 3.0])
def test_bubbles_are_those_of_a_closed_tandem_of_queues(
    stages: int, lanes: int, prompts: float, chunk_s: float
) -> None:
    added = float(bubbles(pipe_of(stages, lanes, chunk_s), np.array([prompts]))[0])
    found = max(stages, lanes) + prompts * chunk_s + added
    exact = tandem_round(stages, lanes, 1.0, chunk_s, prompts / lanes)
    within = 0.12 if lanes >= stages else 0.4  # fewer micro-batches than stages leave gaps
    assert -within * exact < found - exact < within * exact
    if lanes >= stages:
        assert found < 1.01 * exact  # a critical path, so a lower bound


def test_no_bubble_where_every_micro_batch_carries_a_chunk_or_there_is_one_stage() -> None:
    for stages, lanes, prompts in ((1, 1, 0.5), (6, 6, 6.0), (6, 12, 20.0)):
        assert bubbles(pipe_of(stages, lanes, 3.0), np.array([prompts])) == pytest.approx(0.0)


def test_one_micro_batch_waits_for_every_prompt_on_every_stage() -> None:
    assert bubbles(pipe_of(5, 1, 3.0), np.array([0.5])) == pytest.approx(0.5 * 4 * 3)


@pytest.mark.parametrize(("ranks", "prompts"), [(2, 0.02), (8, 0.03), (8, 0.3), (16, 0.004)])
def test_prompts_wait_until_every_rank_has_one(ranks: int, prompts: float) -> None:
    """Poisson prompts on every rank, gathered for 60 steps at most from the first on, one group
    after another."""
    draw, waits = np.random.default_rng(0), []
    for _ in range(4_000):
        times = [np.cumsum(draw.exponential(1 / prompts, 80)) for _ in range(ranks)]
        first = min(own[0] for own in times)
        until = min(first + 60.0, max(own[0] for own in times))
        came = np.concatenate(times)
        waits += (until - came[came <= until]).tolist()
    found = gathering(np.array([prompts]), np.array([ranks]), 60.0)
    assert found == pytest.approx(np.mean(waits), rel=0.02)


def test_one_rank_and_engines_that_do_not_wait_gather_nothing() -> None:
    prompts = np.array([0.1])
    assert gathering(prompts, np.array([1]), 60.0) == 0.0
    assert gathering(prompts, np.array([8]), 0.0) == 0.0


def test_a_light_stage_lets_a_prompt_pass_sooner() -> None:
    """Three stages, the others half as slow as one of two seconds: 4 + 0.5 x 2 of all and of a
    chunk of 6 s, which takes 12 s through; no decode step fills the gap."""
    steps = (3.0, 2.0, 4.0, 6.0, 12.0, 1.0)
    pipe = Pipe(*(np.array([each]) for each in steps))
    prompts, spare = 0.3, 3 * 2.0 - 4.0
    along = prompts * 2 / 3 * 6.0
    expected = prompts / (1 + prompts * 2 / 3) * (12.0 - 6.0 - spare - along)
    assert bubbles(pipe, np.array([prompts])) == pytest.approx(expected)

"""The search equals a brute force that knows neither dominance nor solver: plain loops over every
priced candidate, every number of replicas and every way to lay stages into domains."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from search_instances import Instance, instance

from optimizer.cost.candidates import Candidates
from optimizer.errors import InfeasibleError
from optimizer.search.choosing import Chosen, choose
from optimizer.search.objectives import Objective

SEEDS = range(240)
OBJECTIVES: tuple[Objective, ...] = ("throughput", "latency", "gpus", "balanced")


class Option(NamedTuple):
    """One candidate at one number of replicas, laid out on the nodes."""

    row: int
    degrees: tuple[int, ...]
    replicas: int
    gpus: int
    tokens_per_s: float  # of all replicas
    latency_s: float
    place: tuple[float, ...]  # in the canonical order


@cache
def lies(sizes: tuple[int, ...], pieces: int, rests: int, span: int, rest: int) -> bool:
    """Whether so many pieces of `span` and rests of `rest` GPUs lie in domains of these sizes."""
    if not sizes:
        return pieces <= 0 and rests <= 0
    for here in range(sizes[0] // span + 1):
        also = (sizes[0] - here * span) // rest if rest else 0
        if lies(sizes[1:], pieces - here, rests - also, span, rest):
            return True
    return False


def twelve_digits(value: float) -> float:
    """Rounded to 40 bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**40), exponent - 40)


def keeps_limits(candidates: Candidates, row: int) -> bool:
    """Every limit, and times that can be compared."""
    return candidates.latency_s[row] < 1e200 and all(
        candidates.needs[name][row] <= limit[row] for name, limit in candidates.limits.items()
    )


def shares(candidates: Candidates, row: int) -> list[tuple[int, int, int]]:
    """(pool, stages of a replica there, their span) of every pool that a row takes."""
    if not candidates.stages:
        layouts = candidates.layouts
        return [(int(candidates.pool[row]), int(layouts.pp[row]), int(layouts.span[row]))]
    return [
        (pool, int(stages[row]), int(candidates.spans[pool][row]))
        for pool, stages in candidates.stages.items()
        if stages[row]
    ]


def has_room(case: Instance, row: int, replicas: int) -> bool:
    """Whether so many replicas of a row lie in the domains of all of its pools."""
    width = int(case.candidates.layouts.width[row])
    for pool, own, span in shares(case.candidates, row):
        sizes = tuple(len(domain.gpus) for domain in case.cluster.domains if domain.pool == pool)
        stages, rest = replicas * own, width % span
        if not lies(sizes, stages * (width // span), stages if rest else 0, span, rest):
            return False
    return True


def options(case: Instance) -> Iterator[Option]:
    """Everything that keeps every limit and fits on the nodes."""
    candidates = case.candidates
    layouts = candidates.layouts
    for row in range(len(candidates)):
        if not keeps_limits(candidates, row):
            continue
        pool = int(candidates.pool[row])
        pools = [*candidates.stages.values(), *candidates.spans.values()]
        pp, tp, cp, dp, ep, etp, span = (
            int(getattr(layouts, name)[row])
            for name in ("pp", "tp", "cp", "dp", "ep", "etp", "span")
        )
        width = tp * cp * dp
        rate = twelve_digits(float(candidates.tokens_per_s[row]))
        latency = twelve_digits(float(candidates.latency_s[row]))
        for replicas in range(candidates.replicas_min[row], candidates.replicas_max[row] + 1):
            if not has_room(case, row, int(replicas)):
                break  # more replicas do not lie there either
            precision = int(candidates.precision[row])
            least = int(candidates.replicas_min[row])
            lying = tuple(int(column[row]) for column in pools)
            place = (pool, pp * width, precision, pp, dp, tp, cp, ep, etp, -span, *lying, least)
            yield Option(
                row,
                (pp, tp, cp, dp, ep, etp),
                int(replicas),
                int(replicas) * pp * width,
                rate * int(replicas),
                latency,
                (*place, -rate, latency, row),
            )


def sorted_by(
    case: Instance, objective: Objective, found: list[Option]
) -> list[tuple[int, Option]]:
    """(deciding value, option) in the order of the objective; all values on their integer grids."""
    fixed = bool(np.all(case.candidates.replicas_min == case.candidates.replicas_max))
    most = max(option.tokens_per_s for option in found)
    quickest = min(option.latency_s for option in found)
    per_token = 10.0 ** math.floor(math.log10(1e9 / most))
    per_second = 1e6 if 1e-3 <= quickest <= 1e3 else 10.0 ** math.floor(math.log10(1e9 / quickest))

    def tokens(option: Option) -> int:
        if fixed:
            return -round(option.tokens_per_s * per_token)
        return -option.replicas * round(option.tokens_per_s / option.replicas * per_token)

    def latency(option: Option) -> int:
        return round(min(option.latency_s * per_second, 1e12))

    highest = max(-tokens(option) for option in found)
    lowest = min(latency(option) for option in found)
    token_weight = max(1, round(0.5e12 / max(1, highest)))
    latency_weight = max(1, round(0.3e12 / max(1, lowest)))
    gpu_weight = max(1, round(0.2e12 / case.cluster.num_live_gpus))

    def score(option: Option) -> int:
        waiting = min(latency(option) * latency_weight, 10**14)
        return token_weight * tokens(option) + gpu_weight * option.gpus + waiting

    def key(option: Option) -> tuple[float, ...]:
        numbers = {
            "throughput": (tokens(option), option.gpus, latency(option)),
            "latency": (latency(option), tokens(option), option.gpus),
            "gpus": (option.gpus, tokens(option), latency(option)),
            "balanced": (score(option), option.gpus, latency(option)),
        }
        return (*numbers[objective], *option.place)

    return [(int(key(option)[0]), option) for option in sorted(found, key=key)]


def ranking(
    case: Instance, objective: Objective, found: list[Option], top: int
) -> list[tuple[int, Option]]:
    """The best option of each layout, the best layouts first."""
    best: dict[tuple[int, ...], tuple[int, Option]] = {}
    for value, option in sorted_by(case, objective, found):
        best.setdefault(option.degrees, (value, option))
    return list(best.values())[:top]


def assert_laid_out(case: Instance, chosen: Chosen) -> None:
    """The packings of each choice hold its stages and use no domain twice."""
    for ranked in chosen.ranked:
        width, used = ranked.layout.width, ranked.choice.packings
        for pool, own, span in shares(ranked.candidate, 0):
            here = [(packing, count) for kind, packing, count in used if kind.pool == pool]
            stages = ranked.layout.replicas * own
            assert sum(each.pieces * count for each, count in here) >= stages * (width // span)
            if width % span:
                assert sum(each.rests * count for each, count in here) >= stages
        there = Counter((domain.pool, len(domain.gpus)) for domain in case.cluster.domains)
        taken: Counter[tuple[int, int]] = Counter()
        for kind, packing, count in used:
            taken[kind.pool, kind.size] += count
            shape = packing.shape
            assert packing.pieces * shape.span + packing.rests * shape.rest <= kind.size
        assert all(count <= there[kind] for kind, count in taken.items())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_search_equals_brute_force(seed: int) -> None:
    case = instance(seed)
    found = list(options(case))
    working = len({option.row for option in found})
    top = 1 + seed % 5
    for objective in OBJECTIVES:
        if not found:
            with pytest.raises(InfeasibleError):
                choose(case.cluster, case.candidates, objective, top)
            continue
        expected = ranking(case, objective, found, top)
        chosen = choose(case.cluster, case.candidates, objective, top)
        assert [
            (each.choice.value, each.choice.bound, each.choice.status, each.layout.replicas)
            for each in chosen.ranked
        ] == [(value, value, "OPTIMAL", option.replicas) for value, option in expected]
        rows = case.candidates.take(np.array([option.row for _, option in expected]))
        for index, each in enumerate(chosen.ranked):
            assert each.layout == rows.layout(index, each.layout.replicas)
            for name in ("pool", "precision", "sequences", "chunk", "micro_batches"):
                assert getattr(each.candidate, name)[0] == getattr(rows, name)[index], name
            assert shares(each.candidate, 0) == shares(rows, index)
        account, lacking = chosen.account, case.candidates.settled.get("memory", 0)
        assert account.infeasible == len(case.candidates) - working + lacking
        assert account.candidates == account.infeasible + account.dominated + account.given
        assert_laid_out(case, chosen)


def test_the_instances_cover_what_they_should() -> None:
    """Infeasible ones, irregular nodes, dead GPUs, two pools, long domains, all workloads."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        case = instance(seed)
        seen["infeasible"] += not any(True for _ in options(case))
        seen["two pools"] += len(case.cluster.pools) == 2
        seen["irregular"] += len({len(domain.gpus) for domain in case.cluster.domains}) > 1
        seen["dead"] += any(pool.dead for pool in case.cluster.pools)
        seen["long domains"] += any(pool.nvlink_domain for pool in case.cluster.pools)
        seen["mixture of experts"] += case.model.moe is not None
        seen["two formats"] += len(case.workload.precisions) > 0
        load = (
            getattr(case.workload, "concurrency", None),
            getattr(case.workload, "request_rate", None),
        )
        seen[f"{case.workload.kind} {load[0] is not None} {load[1] is not None}"] += 1
        rests = case.candidates.layouts.width % case.candidates.layouts.span
        seen["rests"] += bool(rests.any())
    assert min(seen.values()) >= 20, seen
    assert len(seen) == 12, seen

"""Expert placement beside EPLB's rule, on loads of several kinds: python benchmarks/experts.py

Prints for each case the mean gap above the proven bound, the worst layer's, EPLB's mean and worst,
the layers proven optimal, and the seconds a whole model takes. EPLB's rule is written here from its
description (github.com/deepseek-ai/EPLB), in plain loops: extra copies go one by one to the expert
with the largest load a copy; then copies, largest first, go to the least loaded GPU with room.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np
from expert_loads import (
    DEEPSEEK,
    GPT_OSS,
    MIXTRAL,
    QWEN,
    Floats,
    Moe,
    drifted,
    expert_loads,
)

from optimizer.search.experts import ExpertPlacement, place_experts


class Case(NamedTuple):
    """A model's experts on slots, and the mean gap to reach, in percent."""

    name: str
    moe: Moe
    kind: str
    slots: int
    gpus: int
    target: float | None = None
    nodes: int = 1
    groups: int | None = None


CASES = (
    Case("DeepSeek-V3", DEEPSEEK, "calibrated", 288, 32, 0.05),
    Case("DeepSeek-V3", DEEPSEEK, "calibrated", 320, 64, 0.15),
    Case("DeepSeek-V3", DEEPSEEK, "powerlaw1.01", 320, 64, 0.6),
    Case("Qwen3-235B", QWEN, "calibrated", 192, 64, 1.0),
    Case("Qwen3-235B", QWEN, "powerlaw1.01", 192, 64, 6.0),
    Case("gpt-oss-120b", GPT_OSS, "powerlaw1.01", 160, 32, 0.7),
    Case("Mixtral-8x7B", MIXTRAL, "calibrated", 16, 8, 0.0),
    Case("DeepSeek-V3", DEEPSEEK, "mild", 288, 32),
    Case("DeepSeek-V3", DEEPSEEK, "powerlaw1.2", 320, 64),
    Case("DeepSeek-V3", DEEPSEEK, "zipf1.0", 288, 32),
    Case("DeepSeek-V3", DEEPSEEK, "calibrated", 256, 64),
    Case("DeepSeek-V3", DEEPSEEK, "calibrated", 288, 144),
    Case("DeepSeek-V3, 8 groups on 4 nodes", DEEPSEEK, "calibrated", 288, 32, None, 4, 8),
)


def eplb(loads: Floats, gpus: int, slots: int) -> Floats:
    """GPU loads [layers, gpus] of EPLB's global rule."""
    result = np.zeros((len(loads), gpus))
    for layer, row in enumerate(loads.tolist()):
        counts = [1] * len(row)
        for _ in range(slots - len(row)):
            expert = max(range(len(row)), key=lambda e: row[e] / counts[e])
            counts[expert] += 1
        pieces = sorted(
            (row[e] / counts[e] for e in range(len(row)) for _ in range(counts[e])), reverse=True
        )
        room = [slots // gpus] * gpus
        for piece in pieces:
            gpu = min((g for g in range(gpus) if room[g]), key=lambda g: result[layer, g])
            result[layer, gpu] += piece
            room[gpu] -= 1
    return result


def eplb_groups(loads: Floats, gpus: int, slots: int, nodes: int, groups: int) -> Floats:
    """GPU loads [layers, gpus] of EPLB's hierarchical rule: groups to nodes, then each node."""
    by_group = loads.reshape(len(loads), groups, -1)
    parts = []
    for layer in by_group:
        totals = layer.sum(axis=1)
        members: list[list[int]] = [[] for _ in range(nodes)]
        for group in np.argsort(-totals, kind="stable").tolist():
            open_nodes = [one for one in members if len(one) < groups // nodes]
            min(open_nodes, key=lambda one: sum(totals[g] for g in one)).append(group)
        rows = np.array([layer[one].ravel() for one in members])
        parts.append(eplb(rows, gpus // nodes, slots // nodes).ravel())
    return np.array(parts)


def run(case: Case, seed: int) -> tuple[ExpertPlacement, Floats, float]:
    """The placement, EPLB's gaps [layers], and the seconds that the placement took."""
    loads = expert_loads(case.moe, case.kind, seed)
    started = time.perf_counter()
    placement = place_experts(loads, case.gpus, case.slots, nodes=case.nodes, groups=case.groups)
    seconds = time.perf_counter() - started
    if case.groups is None:
        rule = eplb(loads, case.gpus, case.slots)
    else:
        rule = eplb_groups(loads, case.gpus, case.slots, case.nodes, case.groups)
    return placement, rule.max(axis=1) / placement.bounds - 1, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="loads of each kind (default 3)")
    parser.add_argument("--prove", action="store_true", help="also two slots a GPU: a minute more")
    arguments = parser.parse_args()
    seeds = arguments.seeds
    print(
        f"{'model, loads, slots on GPUs':<58}{'gap %':>7}{'worst':>7}{'target':>7}"
        f"{'EPLB %':>8}{'worst':>7}{'beaten':>8}{'proven':>8}{'s':>6}"
    )
    for case in CASES:
        runs = [run(case, seed) for seed in range(1, seeds + 1)]
        gaps = 100 * np.concatenate([placement.gaps for placement, _, _ in runs])
        rule = 100 * np.concatenate([rule_gaps for _, rule_gaps, _ in runs])
        name = f"{case.name}, {case.kind}, {case.slots} on {case.gpus}"
        target = "" if case.target is None else f"{case.target:.2f}"
        print(
            f"{name:<58}{gaps.mean():>7.3f}{gaps.max():>7.3f}{target:>7}"
            f"{rule.mean():>8.2f}{rule.max():>7.2f}"
            f"{np.mean(gaps <= rule + 1e-9):>8.0%}{np.mean(gaps <= 1e-9):>8.0%}"
            f"{max(seconds for _, _, seconds in runs):>6.2f}"
        )
    _replanning(seeds)
    if arguments.prove:
        _proving()


def _replanning(seeds: int) -> None:
    """Loads drift by 20 %; at most 60 of 288 slots a layer may move."""
    gaps, moves, stale, slowest = [], [], [], 0.0
    for seed in range(1, seeds + 1):
        loads = expert_loads(DEEPSEEK, "calibrated", seed)
        current = place_experts(loads, 32, 288).physical_to_logical_map
        later = drifted(loads, 0.2, seed)
        started = time.perf_counter()
        placement = place_experts(later, 32, 288, current=current, max_moves=60)
        slowest = max(slowest, time.perf_counter() - started)
        stay = place_experts(later, 32, 288, current=current, max_moves=0)
        gaps.append(100 * placement.gaps)
        moves.append(placement.moves)
        stale.append(100 * stay.gaps)
    print(
        f"\n20 % drift, 288 on 32, at most 60 moves a layer: gap {np.mean(gaps):.3f} %, worst "
        f"{np.max(gaps):.3f} %, moves {np.mean(moves):.0f}, most {np.max(moves)}; "
        f"without moving {np.mean(stale):.1f} %; {slowest:.2f} s"
    )


def _proving() -> None:
    """Two slots a GPU: the bracket that relaxation and CP-SAT close, and what needs no solver."""
    loads = expert_loads(DEEPSEEK, "calibrated", 1)
    started = time.perf_counter()
    placement = place_experts(loads, 144, 288, prove=True)
    seconds = time.perf_counter() - started
    gaps = 100 * placement.gaps
    checked = np.array(
        [
            one.data["checked"]["bound"] if one.kind == "solver" else one.value
            for one in placement.certificates
        ]
    )
    above = 100 * (placement.largest / checked - 1)
    print(
        f"288 on 144 with --prove: gap {gaps.mean():.4f} %, worst {gaps.max():.4f} %; to the bound "
        f"that needs no solver {above.mean():.3f} %, worst {above.max():.3f} %; "
        f"{seconds / len(loads):.1f} s a layer"
    )


if __name__ == "__main__":
    main()

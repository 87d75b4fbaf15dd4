"""Experts on slots of GPUs: the one call behind `optimize experts` and the placement of a plan."""

from __future__ import annotations

import numpy as np

from optimizer.errors import SpecError
from optimizer.layout import Ints
from optimizer.search.experts.bounds import Certificate, best_of, lower_bounds, values
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.grouped import place_groups
from optimizer.search.experts.moves import Rules
from optimizer.search.experts.pack import gpu_loads
from optimizer.search.experts.pairs import enumerable, place_pairs
from optimizer.search.experts.placement import ExpertPlacement
from optimizer.search.experts.prove import prove_pairs
from optimizer.search.experts.question import problems_of
from optimizer.search.experts.replan import replan
from optimizer.search.experts.solve import SEED, solve
from optimizer.search.experts.traffic import spread_over_nodes


def place_experts(
    loads: Floats,
    gpus: int,
    slots: int,
    *,
    nodes: int = 1,
    groups: int | None = None,
    current: Ints | None = None,
    max_moves: int | None = None,
    distinct: bool = False,
    prove: bool = False,
) -> ExpertPlacement:
    """Replica counts and places of all layers with the least largest GPU load, and a bound of each.

    `loads` [layers, experts]; slot s lies on GPU s // (slots / gpus), GPU g on node
    g // (gpus / nodes). `groups` keeps each run of experts / groups experts on one node. `current`
    [layers, slots] is changed in at most `max_moves` slots a layer instead of planned afresh.
    `distinct` allows no two copies of an expert on one GPU. `prove` spends seconds a layer on the
    optimum where GPUs have two slots and any expert may lie on any GPU; elsewhere it adds nothing.
    """
    loads = np.asarray(loads, dtype=np.float64)
    current = None if current is None else np.asarray(current, dtype=np.int64)
    problems = problems_of(loads, gpus, slots, nodes, groups, current, max_moves, distinct)
    if problems:
        raise SpecError(*problems)
    rules = Rules(gpus, distinct, max_moves)
    certificates = lower_bounds(loads, gpus, slots)
    proven: Ints = np.full((len(loads), slots), -1)
    if enumerable(loads.shape[1], gpus, slots):
        proven, proofs = place_pairs(loads, slots, distinct)
        certificates = best_of(certificates, proofs)
    free_largest: Floats | None = None
    if current is not None and groups is None:
        placed = replan(loads, current, values(certificates), rules)
    elif groups is None:
        placed = _place_free(loads, proven, certificates, rules)
        if prove and slots == 2 * gpus:
            placed, certificates = prove_pairs(loads, placed, certificates, distinct)
        placed = spread_over_nodes(loads, placed, gpus, nodes, np.random.default_rng(SEED))
    else:
        free_certificates = certificates
        placed, certificates = place_groups(
            loads, slots, nodes, groups, certificates, current, rules
        )
        if current is None:
            free = _place_free(loads, proven, free_certificates, rules)
            free_largest = np.minimum(
                gpu_loads(loads, free, gpus).max(axis=1), gpu_loads(loads, placed, gpus).max(axis=1)
            )
    return ExpertPlacement(
        loads=loads,
        physical_to_logical_map=placed,
        gpus=gpus,
        nodes=nodes,
        certificates=tuple(certificates),
        distinct=distinct,
        groups=groups,
        free_largest=free_largest,
        current=current,
        max_moves=max_moves,
    )


def _place_free(loads: Floats, proven: Ints, certificates: list[Certificate], rules: Rules) -> Ints:
    """Any expert on any GPU: `proven` [layers, slots], by search where that is -1."""
    placed = proven.copy()
    missing = np.flatnonzero(proven[:, 0] < 0)
    if missing.size:
        bound = values(certificates)[missing]
        placed[missing] = solve(loads[missing], bound, proven.shape[1], rules)
    return placed

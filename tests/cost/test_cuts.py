"""Layers on stages: exact against every cut, and never worse than even."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from optimizer.cost.cuts import _balanced, balanced_cut, largest, least_largest
from optimizer.cost.stages import even_cut, even_stages
from optimizer.pipeline import optimize
from optimizer.spec.reading import read_cluster, read_model
from optimizer.spec.workload import ServingWorkload
from optimizer.verify import verify_plan


def every_cut(layers: int, pp: int) -> list[tuple[int, ...]]:
    return [
        tuple(np.diff([0, *ends, layers]).tolist())
        for ends in combinations(range(1, layers), pp - 1)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_the_cut_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    layers = tuple(random.integers(1, 30, random.integers(2, 10)).tolist())
    head = int(random.integers(0, 40))
    for pp in range(1, len(layers) + 1):
        best = min(largest(layers, head, cut) for cut in every_cut(len(layers), pp))
        cut = _balanced(layers, head, pp)
        assert (len(cut), sum(cut), min(cut) >= 1) == (pp, len(layers), True)
        assert least_largest(layers, head, pp) == best == largest(layers, head, cut)


def test_equal_layers_without_a_head_are_cut_evenly() -> None:
    for pp in range(1, 13):
        assert _balanced((7,) * 12, 0, pp) == even_cut(12, pp)


def test_leading_dense_layers_weigh_less_than_a_stage_of_experts() -> None:
    """DeepSeek-V3 opens with 3 dense layers of 61: the first of two stages takes more."""
    model = read_model("deepseek-v3").model
    assert balanced_cut(model, 2) == (32, 29)
    assert even_stages(model, 2) == (31, 30)


def test_uneven_stages_are_taken_where_they_gain_and_the_plan_says_what() -> None:
    model = read_model("deepseek-v3").model
    cluster = read_cluster("h100-sxm", gpus=32)
    workload = ServingWorkload(input_len=1024, output_len=1024)
    plan = optimize(cluster, model, workload, top=1, strategy="canonical:PP4-EP8-DP8").best
    sizes = tuple(stop - first for first, stop in plan.deployment.placement.stage_layers)
    assert sizes == balanced_cut(model, 4) != even_stages(model, 4)
    assert any("balanced by bytes" in note and "less tokens/s" in note for note in plan.notes)
    document = plan.model_dump(mode="json", by_alias=True)
    assert all(finding.ok for finding in verify_plan(document))

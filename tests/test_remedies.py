"""Other people's remedies: report E's own, and what each does to bytes and time."""

from __future__ import annotations

from functools import cache

import pytest

from optimizer.errors import SpecError
from optimizer.repairing import Job, Remedy, price_remedies, render_remedies
from optimizer.spec.reading import read_job

CASE_E = "configs/cases/e"

# What report E asks for, in its order (see "Remedies" there), each on its EP16_TP1_PP1_DP1.
REPORTED = (
    "batch=64",
    "gradient_checkpointing",
    "weights=fp16",
    "recompute",
    "strategy=PP2-EP8-DP8",
    "memory_margin=10%",
)


def corrected() -> Job:
    return Job(*read_job(CASE_E, CASE_E))._replace(strategy="EP16_TP1_PP1_DP1")


@cache
def reported() -> dict[str, Remedy]:
    return {remedy.name: remedy for remedy in price_remedies(corrected(), REPORTED)}


def test_the_corrected_strategy_of_case_e_needs_no_remedy() -> None:
    before = reported()["batch=64"].before
    assert before.broken == ()
    assert before.gpu_bytes < before.allowed_bytes == pytest.approx(76e9)


def test_fp16_instead_of_fp8_makes_case_e_worse() -> None:
    remedy = reported()["weights=fp16"]
    before, after = (state.components["expert weights"] for state in (remedy.before, remedy.after))
    # 16 layers x 64 experts / 16 GPUs, three matrices of 2048 x 4704 each, one byte an element.
    assert before == 16 * 4 * 3 * 2048 * 4704
    assert after == 2 * before
    assert remedy.verdict == "worse"


def test_half_the_batch_halves_the_activations_of_case_e() -> None:
    remedy = reported()["batch=64"]
    before, after = (state.components["activations"] for state in (remedy.before, remedy.after))
    assert after == before / 2
    assert remedy.verdict == "better"


@pytest.mark.parametrize("name", ["gradient_checkpointing", "recompute"])
def test_recompute_saves_nothing_where_there_is_no_backward_pass(name: str) -> None:
    remedy = reported()[name]
    assert remedy.verdict == "no change"
    assert remedy.before == remedy.after


def test_a_margin_frees_nothing() -> None:
    remedy = reported()["memory_margin=10%"]
    assert remedy.after.gpu_bytes == remedy.before.gpu_bytes
    assert remedy.after.allowed_bytes == pytest.approx(72e9)
    assert remedy.verdict == "worse"


def test_stages_hold_half_the_attention_each_and_as_many_expert_bytes() -> None:
    remedy = reported()["strategy=PP2-EP8-DP8"]
    before, after = remedy.before.components, remedy.after.components
    assert after["expert weights"] == before["expert weights"]
    assert after["dense weights"] == before["dense weights"] / 2


def test_fp8_weights_are_better_where_they_make_the_model_fit() -> None:
    job = Job(*read_job("h100-sxm", "llama-3.1-70b", "chat", gpus=1))
    (remedy,) = price_remedies(job, ["weights=fp8"])
    assert any(each.startswith("memory: ") for each in remedy.before.broken)
    assert remedy.after.broken == ()
    assert remedy.verdict == "better"


def test_the_load_of_the_best_plan_is_held_still() -> None:
    job = Job(*read_job("h100-sxm", "llama-3.1-70b", "chat", gpus=8))
    (remedy,) = price_remedies(job, ["kv_cache=fp8"])
    before, after = (state.components["KV cache"] for state in (remedy.before, remedy.after))
    assert after == before / 2
    assert before > 2**30


@pytest.mark.parametrize(
    "name",
    [
        "more magic",
        "batch=0",
        "batch=many",
        "batch=" + "9" * 5000,
        "concurrency=8",  # a forward pass has none
        "weights=fp7",
        "kv_cache=none",
        "gpus=4",  # fewer than there are
        "gpu=h900",
        "strategy=EP24_TP1_PP1_DP1",
        "strategy=fast",
        "memory_margin=-1",
        "memory_margin=all",
    ],
)
def test_what_is_no_remedy_is_refused_with_what_to_write(name: str) -> None:
    with pytest.raises(SpecError):
        price_remedies(corrected(), [name])


def test_the_table_names_each_verdict_and_the_bytes() -> None:
    text = render_remedies(tuple(reported().values()))
    assert "every limit holds" in text
    for name, remedy in reported().items():
        (line,) = [line for line in text.splitlines() if line.startswith(name)]
        assert f"  {remedy.verdict}  " in line

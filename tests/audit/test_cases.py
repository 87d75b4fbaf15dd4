"""The five reports: what arithmetic says of each claim."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from optimizer.audit.finding import Audit, Finding
from optimizer.audit.job import audit

CASES = Path(__file__).parents[2] / "configs" / "cases"


@cache
def audited(*names: str) -> Audit:
    return audit([CASES / name / "claims.yaml" for name in names])


def found(case: str, words: str) -> Finding:
    """The one finding of a report whose claim has these words."""
    matching = [each for each in audited(case).findings if words in each.claim]
    assert len(matching) == 1, [each.claim for each in matching]
    return matching[0]


CONFIRMED, READING = "confirmed", "confirmed-under-reading"
REFUTED, UNVERIFIABLE = "refuted", "unverifiable"

VERDICTS = {
    "a": {
        "128 GPUs are required": CONFIRMED,
        "128 GPUs are available": CONFIRMED,
        "8.39 MB of attention": REFUTED,
        "32.0 MB of expert": READING,
        "16.78 MB of activations": READING,
        "57.17 MB of memory a GPU in all": REFUTED,
        "0.09 % of the 64 GB": REFUTED,
        "67.11 TFLOPS": REFUTED,
        "268.44 TFLOPS": REFUTED,
        "335.55 TFLOPS": REFUTED,
        "16.8 %": REFUTED,
        "67.1 %": REFUTED,
        "83.9 %": REFUTED,
        "64 expert modules x 2 GPUs": CONFIRMED,
        "2 GPUs an expert module": CONFIRMED,
        "128 tensor sub-modules x 1 GPU": CONFIRMED,
        "1 GPU a tensor sub-module": CONFIRMED,
        "16 layer modules x 8 GPUs": CONFIRMED,
        "8 GPUs a layer module": REFUTED,
        "variance of compute": READING,
        "variance of memory": CONFIRMED,
        "variance of communication": READING,
        "gives the module dependencies": CONFIRMED,
        "gives the communication patterns": REFUTED,
        "gives the GPU assignment": REFUTED,
        "one sum in two units": REFUTED,
    },
    "b": {
        "128 modules": CONFIRMED,
        "128 GPUs": CONFIRMED,
        "utilisation of the GPUs 100 %": READING,
        "0.5 experts a GPU": READING,
        "memory utilisation 31.7 %": REFUTED,
        "4.8 x the throughput": UNVERIFIABLE,
        "4.8 x better latency": UNVERIFIABLE,
        "every one of the 64 experts is mapped": UNVERIFIABLE,
        "communication is hierarchical": UNVERIFIABLE,
        "the strategy is optimised": REFUTED,
        "throughput x latency": REFUTED,
        "a latency that is a throughput turned over": REFUTED,
    },
    "c": {
        "TP=4 EP=4 and PP=4 take 16 GPUs": READING,
        "4 experts a layer": CONFIRMED,
        "8 x 4 = 32 experts": CONFIRMED,
        "40 modules": CONFIRMED,
        "2.5 modules a GPU": READING,
        "the modules lie evenly": READING,
        "zero variance of memory": READING,
        "zero variance of compute": READING,
        "about 16 GB a GPU": UNVERIFIABLE,
        "latency is 75 % lower": REFUTED,
        "the pipeline shortens the path": REFUTED,
        "8 sequential layers become 2": REFUTED,
        "3 x the throughput": UNVERIFIABLE,
        "the DAG has no cycle": CONFIRMED,
        "the plan can be deployed": CONFIRMED,
        "pipeline bubble against utilisation": REFUTED,
    },
    "d": {
        "1 expert a GPU a layer": CONFIRMED,
        "1.00 MB of attention": REFUTED,
        "64.00 MB of expert weights": REFUTED,
        "64.00 MB of activations": REFUTED,
        "129.00 MB a GPU in all": REFUTED,
        "0.197 %": REFUTED,
        "compute utilisation 0.02 %": REFUTED,
        "2 GPUs a module": CONFIRMED,
        "variance of memory": CONFIRMED,
        "the strategy is optimal": REFUTED,
        "a script verifies": UNVERIFIABLE,
        "can be deployed": CONFIRMED,
    },
    "e": {
        "EP16_TP1_PP1_DP4 takes 64 GPUs": CONFIRMED,
        "16 GPUs are there": CONFIRMED,
        "EP16_TP1_PP1_DP4 cannot be deployed": CONFIRMED,
        "EP16_TP1_PP1_DP1 takes 16 GPUs": CONFIRMED,
        "4 experts a GPU": CONFIRMED,
        "64 experts a GPU was a validation error": CONFIRMED,
        "114.53 GB are needed": UNVERIFIABLE,
        "does not fit the GPUs": READING,
        "saves about 50 %": READING,
        "gradient checkpointing": READING,
        "FP16 instead of FP8": REFUTED,
        "activation recomputation": READING,
        "more model parallelism": CONFIRMED,
        "readiness gate": READING,
    },
}


@pytest.mark.parametrize(
    ("case", "words", "verdict"),
    [(case, words, verdict) for case, rows in VERDICTS.items() for words, verdict in rows.items()],
)
def test_every_claim_gets_the_verdict_of_the_arithmetic(
    case: str, words: str, verdict: str
) -> None:
    matching = [each for each in audited(case).findings if words in each.claim]
    plain = [each for each in matching if ":" not in each.claim] or matching
    assert plain[0].verdict == verdict, plain[0].arithmetic


def test_the_83_9_percent_of_report_a_are_work_taken_for_a_rate() -> None:
    """2^26 + 2^28 FLOP a token in millions, over 400."""
    finding = found("a", "83.9 %")
    assert finding.verdict == "refuted"
    assert "work taken for a rate: 335.54 million FLOP a token" in finding.arithmetic
    assert "67,108,864 FLOP" in finding.arithmetic
    assert "268,435,456 FLOP" in finding.arithmetic
    assert isinstance(finding.derived_value, float)
    assert finding.derived_value < 10


def test_the_layers_of_report_a_have_no_gpus_of_their_own() -> None:
    finding = found("a", "8 GPUs a layer module")
    assert finding.derived_value == 128
    assert "PP = 1" in finding.arithmetic


def test_the_expert_weights_of_report_a_are_mebibytes_after_the_split() -> None:
    finding = found("a", "32.0 MB of expert")
    assert finding.reading == "MB as MiB"
    assert finding.arithmetic.startswith(
        "2 x 1024 x 2048 x 1 experts a layer x 16 layers / 2 (TP) x 1 B = 33,554,432 B"
    )


def test_the_total_of_report_a_adds_megabytes_to_mebibytes() -> None:
    finding = found("a", "one sum in two units")
    assert "8.39 is MB" in finding.arithmetic
    assert "32.0 is MiB" in finding.arithmetic


def test_the_latency_of_report_b_is_its_throughput_turned_over() -> None:
    finding = found("b", "throughput turned over")
    assert "1 / 576,000 tokens/s = 1.736 us, not 1.74 ms" in finding.arithmetic
    assert "off by a thousand" in finding.arithmetic
    (claim,) = (each for each in audited("b").findings if each.claim.startswith("1.74 ms"))
    assert claim.verdict == "refuted"
    assert "1 / throughput, its unit off by a thousand" in claim.readings
    assert "1 / 576,000 tokens/s = 1.736 us" in claim.arithmetic
    assert "1,002 tokens in flight" in found("b", "throughput x latency").arithmetic


def test_the_modules_of_report_c_are_even_only_where_tp_quarters_attention() -> None:
    for words in ("the modules lie evenly", "2.5 modules a GPU"):
        finding = found("c", words)
        assert finding.verdict == "confirmed-under-reading"
        assert finding.reading == "tensor parallelism cuts each attention block in 4"
        assert "8 GPUs hold 3, 8 hold 2" in finding.arithmetic


def test_a_token_of_report_c_still_crosses_eight_layers() -> None:
    finding = found("c", "8 sequential layers become 2")
    assert finding.verdict == "refuted"
    assert finding.derived_value == 8
    assert (
        "8 layers with pp 1, 8 with pp 4, none beside another = 0 %"
        in found("c", "75 % lower").arithmetic
    )


def test_the_utilisation_of_report_c_is_more_than_its_bubbles_leave() -> None:
    for words in ("pipeline bubble", "utilisation above 90 %"):
        matching = [each for each in audited("c").findings if words in each.claim]
        for finding in matching:
            assert finding.verdict == "refuted"
            assert "8 / (8 + 4 - 1) = 72.7 %" in finding.arithmetic


def test_the_expert_weights_of_report_d_stand_before_the_split() -> None:
    finding = found("d", "64.00 MB of expert weights")
    assert finding.verdict == "refuted"
    assert finding.derived_value == pytest.approx(33.554432)
    assert "before the TP split; MB as MiB" in finding.readings


def test_the_first_strategy_of_report_e_needs_64_of_16_gpus() -> None:
    assert found("e", "takes 64 GPUs").verdict == "confirmed"
    refused = [each for each in audited("e").readiness if each.strategy == "EP16_TP1_PP1_DP4"]
    assert refused
    assert all(not each.ready for each in refused)
    assert refused[0].limits == ("GPUs: 64 needed, 16 there",)


def test_report_e_counts_one_capacity_in_two_ways() -> None:
    (share,) = (each for each in audited("e").findings if each.claim == "133.33 % of capacity")
    assert share.verdict == "confirmed-under-reading"
    assert share.reading == "from the report's own figures; GB over GiB"
    assert "143.162 %" in share.arithmetic
    (shortfall,) = (each for each in audited("e").findings if each.claim == "30.1 % shortfall")
    assert shortfall.reading == "of what is needed, not of what there is"
    assert "43.1625 %" in shortfall.arithmetic
    contradictions = [each.claim for each in audited("e").findings if "two ways" in each.claim]
    assert "one figure read in two ways: 133.33 % of capacity; 30.1 % shortfall" in contradictions


def test_the_rate_of_report_e_is_that_of_fp32_on_a_gpu_without_fp8() -> None:
    finding = found("e", "19.5 TFLOP/s")
    assert finding.verdict == "confirmed-under-reading"
    assert "the fp32 rate of a100" in finding.reading
    assert "no fp8" in finding.arithmetic


def test_the_degrees_of_report_c_share_the_gpus_of_a_stage() -> None:
    """4 x 4 = 16 GPUs where TP and EP share four of them, else 64."""
    finding = found("c", "TP=4 EP=4 and PP=4 take 16 GPUs")
    assert "shared by both grids" in finding.reading
    assert "= 64 GPUs" in finding.arithmetic


def test_the_phase_decides_whether_report_e_is_ready() -> None:
    ready = {
        (each.phase, each.reading): each.ready
        for each in audited("e").readiness
        if each.strategy == "EP16_TP1_PP1_DP1"
    }
    assert ready["forward", ""]
    assert ready["serving", ""]
    assert not ready["training", "every GPU runs the whole batch"]


def test_reports_a_b_and_d_contradict_each_other() -> None:
    """Memory and utilisation of one plan, three times told."""
    across = {
        (each.case, each.claim.removeprefix("two reports of one plan: "))
        for each in audited("a", "b", "d").findings
        if each.claim.startswith("two reports")
    }
    assert ("A, D", "memory per gpu / total") in across
    assert ("A, D", "memory per gpu / expert weights") in across
    for pair in ("A, B", "A, D", "B, D"):
        assert (pair, "utilisation / total") in across
        assert (pair, "share of capacity") in across
    assert ("B, D", "experts per gpu") not in across  # 0.5 and 1 each hold under a reading


def test_no_report_is_the_best_plan() -> None:
    for case in "abcde":
        for better in audited(case).better:
            assert better.plan != better.claimed_plan


def test_each_report_has_about_twenty_claims() -> None:
    for case in "abcde":
        claims = [each for each in audited(case).findings if each.quantity != "contradiction"]
        assert len(claims) >= 17
        assert all(each.arithmetic for each in claims)

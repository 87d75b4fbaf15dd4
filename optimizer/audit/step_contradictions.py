"""Claims of a training step that cannot hold together: its seconds, tokens/s, FLOP/s and MFU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from optimizer.audit.amounts import UNITS, show
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.finding import Finding, contradiction
from optimizer.audit.own_figures import Told, in_si
from optimizer.audit.quantities.steps import REPEATED, step_works, told_tokens
from optimizer.audit.quantities.work import PARTS
from optimizer.spec.workload import TrainingWorkload

ALIKE = 0.02  # relative difference that rounding of printed figures may explain


def step_against_rate(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """Step, tokens/s and tokens/s a GPU all say how fast the tokens of a step are through."""
    if case.phase != "training":
        return
    known = [(told, *found) for told in judged if (found := told_tokens(case, told)) is not None]
    tokens = case.batch * case.seq_len
    for (one, rate, said), (other, against, also) in combinations(known, 2):
        if abs(rate / against - 1) > ALIKE:
            yield contradiction(
                case.name,
                f"one step at two rates: {one.claim.claim}; {other.claim.claim}",
                f"{case.batch} x {case.seq_len} = {tokens:,} tokens a step on {case.layout.gpus} "
                f"GPUs: {said} = {rate:,.5g} tokens/s, {also} = {against:,.5g} tokens/s",
            )


def share_against_rate(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """FLOP/s and MFU are tokens/s x the model's FLOPs a token, by one convention or another."""
    known = next(filter(None, (told_tokens(case, told) for told in judged)), None)
    if case.phase != "training" or known is None:
        return
    tokens_per_s, said = known
    share = tokens_per_s / (case.batch * case.seq_len * case.layout.gpus)
    rates = [
        (share * work.flops, work.label or "causal attention, nothing counted twice")
        for work in step_works(case)
    ]
    for told in judged:
        claimed = _flops_per_s(case, told.claim)
        if claimed is None or any(abs(claimed[0] - rate) <= claimed[1] for rate, _ in rates):
            continue
        nearest = min(rates, key=lambda rate: abs(rate[0] - claimed[0]))
        written = "; ".join(
            f"{show(rate, 'FLOP/s')} ({name})" for rate, name in dict.fromkeys((rates[0], nearest))
        )
        yield contradiction(
            case.name,
            f"FLOP/s against tokens/s: {told.claim.claim}",
            f"{said} on {case.layout.gpus} GPUs: {written} a GPU, under no convention the "
            f"{show(claimed[0], 'FLOP/s')} that are claimed",
        )


def beyond_the_peak(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """No GPU does more than its peak, recomputation included where everything is recomputed."""
    load = case.workload
    if case.phase != "training" or not isinstance(load, TrainingWorkload):
        return
    works = step_works(case)
    repeated = [work for work in works if work.label.startswith(REPEATED)]
    work = min(repeated, key=lambda work: work.flops) if repeated else works[0]
    peak = max(case.gpu.peak_flops_per_s(kind) for kind in load.precision)
    for told in judged:
        known = told_tokens(case, told)
        if known is None:
            continue
        rate = work.flops * known[0] / (case.batch * case.seq_len * case.layout.gpus)
        if rate > peak:
            yield contradiction(
                case.name,
                f"more than the GPUs can compute: {told.claim.claim}",
                f"{known[1]} on {case.layout.gpus} GPUs: {work.text}: {show(rate, 'FLOP/s')} a "
                f"GPU, whose peak is {show(peak, 'FLOP/s')}",
            )


def _flops_per_s(case: Case, claim: Claim) -> tuple[float, float] | None:
    """(FLOP/s of a GPU that a claim says, what rounding may hide of it)."""
    shares = claim.quantity in ("mfu", "utilisation")
    if claim.component in PARTS[:2] or not (shares or claim.quantity == "compute_rate"):
        return None
    if claim.figure is None or claim.unit is None or claim.comparison != "equal":
        return None
    peak = case.gpu.peak_flops_per_s("bf16") if shares else 1.0
    step = float(claim.figure.half_step) * UNITS[claim.unit].scales[0].size
    said = in_si(claim) * peak
    return said, step * peak + ALIKE * said

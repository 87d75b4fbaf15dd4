"""A training step: its seconds, the FLOPs that count as the model's, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from optimizer.audit.amounts import show
from optimizer.audit.case import Case
from optimizer.audit.claim import PER_GPU, Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import OWN, Told, in_si, ratios
from optimizer.audit.phases import batch_of, workload_in
from optimizer.cost.training import Job, model_flops
from optimizer.cost.training.accounting import token_parameters
from optimizer.plan import Plan
from optimizer.spec.linears import head_linears
from optimizer.spec.workload import TrainingWorkload

RATES = ("throughput", "step_time", "latency")
SPARSE = "over the peak of sparse products, twice the dense one"
PEAKS = ((1, ""), (2, SPARSE))
REPEATED = "recomputation counted too (hardware FLOPs)"


class Work(NamedTuple):
    """FLOPs of one step as people count them; label "" is the model's own count."""

    label: str
    flops: float
    text: str


def step_time(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Seconds of one optimizer step, by planning the strategy."""
    plan = case.plans.get("training")
    if plan is None:
        return Answer(missing=_no_step(case))
    return Answer((step_of(case, plan),))


def step_of(case: Case, plan: Plan) -> Derived:
    known, (batch, tokens) = plan.predictions["step_s"], batch_of(case.workload)
    text = (
        f"training: a step over {batch} x {tokens} tokens, planned as {plan.name} = "
        f"{show(known.value, 'seconds')} ({show(known.low, 'seconds')} to "
        f"{show(known.high, 'seconds')}; {known.source})"
    )
    departs = () if case.phase else ("training",)
    return Derived(known.value, text, ("training",), departs, True, known.low, known.high)


def _no_step(case: Case) -> tuple[str, ...]:
    stated = f"; the report is of {case.phase}" if case.phase not in (None, "training") else ""
    return (f"a training step{stated}",) if stated else ()


def step_works(case: Case) -> list[Work]:
    """The FLOPs of a step, forward and backward, by each convention."""
    load, model = workload_in("training", case.workload), case.model
    assert isinstance(load, TrainingWorkload)
    batch, length = load.global_batch, load.sequence_length
    ahead = model.mtp.num_layers if model.mtp is not None and load.mtp else 0
    job, tokens = Job(length, mtp_layers=ahead), batch * length
    crossed = sum(
        token_parameters(model.layer_types[x], model.hidden_size) for x in model.layer_names
    )
    crossed += head_linears(model)[0].inputs * model.vocab_size
    own = model_flops(model, job, batch)
    whole = model_flops(model, job, batch, full_attention=True)
    products = f"{tokens:,} tokens x 6 x {crossed / 1e9:.5g} B parameters of matrix products"
    found = [
        Work("", own, f"{products} + causal attention = {own:.4g} FLOP a step"),
        Work(
            "attention over the whole square, as Megatron-LM prints it",
            whole,
            f"{products} + attention over the whole square = {whole:.4g} FLOP a step",
        ),
        Work("attention left out", 6.0 * tokens * crossed, f"{products}, attention left out"),
    ]
    if load.recompute == ("full",):
        head = 6.0 * tokens * head_linears(model)[0].inputs * model.vocab_size
        found += [
            Work(
                f"{REPEATED}, {each.label or 'causal attention'}",
                (each.flops - head) * 4 / 3 + head,
                f"({each.text}), all but the head x 4/3",
            )
            for each in found
        ]
    return found


def step_rates(case: Case, plan: Plan) -> Iterator[Derived]:
    """FLOP/s of a GPU in the planned step."""
    known, gpus = plan.predictions["step_s"], plan.deployment.gpus
    for work in step_works(case):
        each = work.flops / gpus
        text = (
            f"training: {work.text} / {gpus} GPUs / {show(known.value, 'seconds')} = "
            f"{show(each / known.value, 'FLOP/s')} a GPU, planned as {plan.name}"
        )
        departs = (*(() if case.phase else ("training",)), *([work.label] if work.label else []))
        ends = (each / known.high, each / known.low)
        yield Derived(each / known.value, text, ("training", work.label), departs, True, *ends)


def told_rates(case: Case, told: Mapping[str, Told]) -> Iterator[Derived]:
    """FLOP/s of a GPU by the report's own tokens/s or step; what follows from a refuted figure
    only explains."""
    if "training" not in case.phases:
        return
    for before in told.values():
        found = told_tokens(case, before)
        if found is None:
            continue
        tokens_per_s, said = found
        step_tokens = case.batch * case.seq_len
        for work in step_works(case):
            each = work.flops / step_tokens * tokens_per_s / case.layout.gpus
            text = (
                f"{said}: {work.text}, {work.flops / step_tokens:.4g} FLOP a token x "
                f"{tokens_per_s:,.5g} tokens/s / {case.layout.gpus} GPUs = {show(each, 'FLOP/s')}"
            )
            labels = (OWN, *([work.label] if work.label else []))
            yield Derived(each, text, labels, labels, before.verdict != "refuted")


def told_tokens(case: Case, told: Told) -> tuple[float, str] | None:
    """(tokens/s of the whole step that a claim says, the claim in its words)."""
    claim, figure = told.claim, told.claim.figure
    if claim.quantity not in RATES or figure is None or not claim.unit or not figure.value:
        return None
    value = in_si(claim)
    said = f"{claim.value} {claim.unit}"
    if claim.quantity != "throughput":
        return case.batch * case.seq_len / value, f"a step of {said}"
    if claim.component == PER_GPU:
        return value * case.layout.gpus, f"{said} a GPU"
    return value, f"{said} in all"


def mfu(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Model FLOPs over the dense 16-bit peak of the GPUs: as planned, and as the report's own
    tokens/s or step have it."""
    plan = case.plans.get("training")
    found = [] if plan is None else list(shares_of_peak(case, step_rates(case, plan)))
    found += shares_of_peak(case, told_rates(case, told))
    found += ratios(claim, told)
    return Answer(tuple(found), () if found else _no_step(case))


def shares_of_peak(case: Case, rates: Iterator[Derived]) -> Iterator[Derived]:
    """Rates of training over the peak; over that of sparse products a share is half as large, and
    no GPU reaches it in training."""
    peak = case.gpu.peak_flops_per_s("bf16")
    for rate in rates:
        plain = not set(rate.departures) - {"training", OWN}
        for factor, label in PEAKS if plain else PEAKS[:1]:
            share, over = float(rate.value) / peak / factor, show(factor * peak, "FLOP/s")
            low, high = (
                end / peak / factor if end is not None else None for end in (rate.low, rate.high)
            )
            text = f"{rate.arithmetic}, / {over} of bf16 peak = {100 * share:.4g} %"
            departs = (*rate.departures, *([label] if label else []))
            holds = rate.holds and not label
            yield Derived(share, text, (*rate.labels, label), departs, holds, low, high)


def micro_batches(case: Case) -> int:
    """Of one pipeline in a step: as stated, else of one sequence each, which are the most."""
    load = case.workload
    micro = (load.micro_batch or 1) if isinstance(load, TrainingWorkload) else 1
    return max(1, case.batch // (case.layout.replicas * case.layout.dp * micro))


def bubble(case: Case) -> tuple[float, str]:
    """(share of the time that a pipeline's stages can work, the arithmetic): m / (m + (p - 1) / v)
    with m micro-batches (Huang et al., 2019; v chunks of a stage, Narayanan et al., 2021)."""
    batches, pp, vp = micro_batches(case), case.layout.pp, case.layout.vp
    share = batches / (batches + (pp - 1) / vp)
    waits = f"({pp} - 1) / {vp} chunks" if vp > 1 else f"{pp} - 1"
    text = (
        f"{batches} micro-batches over {pp} stages fill at most {batches} / ({batches} + {waits}) "
        f"= {100 * share:.1f} % of the time"
    )
    return share, text


def bubble_share(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """The share of a step in which a stage waits for others: of the step, and over the time
    without waiting, (p - 1) / (v m) (Narayanan et al., 2021)."""
    plan, stated = case.plans.get("training"), getattr(case.workload, "micro_batch", None)
    step = plan.deployment.training if plan is not None and stated is None else None
    batches = step.micro_batches if step is not None else micro_batches(case)
    pp, vp = case.layout.pp, case.layout.vp
    found: list[Derived] = []
    stated = vp > 1 or pp == 1
    for chunks in (vp,) if stated else range(1, case.model.num_layers // pp + 1):
        said = (f"{chunks} chunks of a stage, which the strategy does not say",)
        found += _waits(batches, pp, chunks, () if stated or chunks == 1 else said)
    return Answer(tuple(sorted(found, key=lambda each: len(each.departures))))


def _waits(batches: int, pp: int, chunks: int, departs: tuple[str, ...]) -> Iterator[Derived]:
    waits = (pp - 1) / chunks
    turns = f" / {chunks} chunks" if chunks > 1 else ""
    whole, ideal = waits / (batches + waits), waits / batches
    text = f"({pp} - 1){turns} turns of waiting beside {batches} micro-batches"
    yield Derived(whole, f"{text} = {100 * whole:.4g} % of the step", ("of the step",), departs)
    label = "over the time without waiting"
    yield Derived(ideal, f"{text} = {100 * ideal:.4g} % {label}", (label,), (*departs, label))

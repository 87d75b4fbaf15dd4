"""Rates, utilisation, throughput and latency: by planning the strategy, not by its word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optimizer.audit.amounts import Dimension, show
from optimizer.audit.case import Case
from optimizer.audit.claim import PER_GPU, Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import OWN, Told, ratios, sums
from optimizer.audit.phases import TIMES
from optimizer.audit.quantities.steps import bubble, step_of, step_rates, told_rates
from optimizer.audit.quantities.work import token_work
from optimizer.errors import InfeasibleError
from optimizer.plan import Plan
from optimizer.spec.formats import FORMATS

TERA = 1e12
MILLION = 1e6


def compute_rate(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """FLOP/s of one GPU over the planned time; a figure that is work a token is no rate."""
    part = claim.component or "total"
    own = told_rates(case, told) if part == "total" else ()
    return Answer((*_rates(case, part), *own, *sums(claim, told, "FLOP/s")))


def utilisation(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """FLOP/s of one GPU over its peak, never more than the pipeline leaves; that every GPU holds a
    part is a reading, and says nothing of how busy it is."""
    part, peak = claim.component or "total", _peak(case)
    found = []
    for rate in _rates(case, part):
        share = float(rate.value) / peak
        low, high = ((end / peak if end is not None else None) for end in (rate.low, rate.high))
        text = f"{rate.arithmetic}, / {show(peak, 'FLOP/s')} of peak = {100 * share:.4g} %"
        if case.layout.pp > 1 and rate.labels == ("forward",):
            text += f"; {bubble(case)[1]}"
        found.append(rate._replace(value=share, arithmetic=text, low=low, high=high))
    if claim.component is None:
        used, there = case.layout.gpus, case.cluster.num_live_gpus
        label = "GPUs that hold a part, however busy they are"
        found.append(Derived(used / there, f"{used} GPUs / {there} there", (label,), (label,)))
    return Answer((*found, *ratios(claim, told)))


def _rates(case: Case, part: str) -> Iterator[Derived]:
    """What is achieved, then work taken for a rate: millions of FLOP a token as if TFLOP/s."""
    for phase, plan in case.plans.items():
        if phase == "training" and part == "total":
            yield from step_rates(case, plan)
        else:
            yield _achieved(case, phase, plan, part)
    for work in token_work(case, part):
        amount = f"{float(work.value) / MILLION:.2f}"
        label = (
            f"work taken for a rate: {amount} million FLOP a token are an amount, "
            f"not {amount} TFLOP/s"
        )
        readings = (label, *work.departures)
        text = f"{work.arithmetic} a token = {amount} million FLOP, written as TFLOP/s"
        yield Derived(float(work.value) / MILLION * TERA, text, readings, readings, holds=False)


def _achieved(case: Case, phase: str, plan: Plan, part: str) -> Derived:
    """Work of the tokens of a pass, of one decode step, or of a training step (forward and
    backward: three times a pass), over the GPUs and the planned time."""
    work = next(token_work(case, part))
    serving, passes = phase == "serving", 3 if phase == "training" else 1
    tokens = plan.deployment.batch.concurrency if serving else case.batch * case.seq_len
    time = plan.predictions[TIMES[phase][0]]
    gpus = plan.deployment.gpus
    done = float(work.value) * passes * tokens / gpus
    both = " x 3 (forward and backward)" if passes == 3 else ""
    text = (
        f"{phase}: {work.arithmetic} a token{both}, x {tokens:,.0f} tokens / {gpus} GPUs "
        f"/ {time.value * 1e3:.4g} ms = {show(done / time.value, 'FLOP/s')} a GPU"
    )
    departs = () if case.phase else (phase,)
    return Derived(
        done / time.value, text, (phase,), departs, True, done / time.high, done / time.low
    )


def _peak(case: Case) -> float:
    """Of the format that the FFN runs in; a training step is measured at the 16-bit peak."""
    if case.phase == "training":
        return case.gpu.peak_flops_per_s("bf16")
    kind = case.model.precision.experts if case.model.moe else case.model.precision.ffn
    return case.gpu.peak_flops_per_s(FORMATS[kind].compute)


def throughput(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Tokens per second of the whole deployment, or of one of its GPUs."""
    found = []
    for phase, plan in case.plans.items():
        whole = _predicted(case, phase, plan, "tokens_per_s", "tokens/s", _load(case, phase))
        if claim.component == PER_GPU:
            whole = _of_one(whole, plan.deployment.gpus)
        found.append(whole)
    return Answer(tuple(found))


def _of_one(whole: Derived, gpus: int) -> Derived:
    """A GPU's share of a rate."""
    each, low, high = (float(end or 0.0) / gpus for end in (whole.value, whole.low, whole.high))
    text = f"{whole.arithmetic}; / {gpus} GPUs = {show(each, 'tokens/s')} a GPU"
    return whole._replace(value=each, arithmetic=text, low=low, high=high)


def latency(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Seconds per output token, or of a whole pass or step; a throughput turned over is none."""
    found = []
    for phase, plan in case.plans.items():
        if phase == "forward":
            what = f"a whole pass over {_load(case, phase)}"
            each = _predicted(case, phase, plan, "latency_s", "seconds", what)
            found.append(each._replace(departures=(phase, "of a whole pass")))
        elif phase == "training":
            each = step_of(case, plan)
            found.append(each._replace(departures=(phase, "of a whole step")))
        else:
            what = f"one output token of each of {_load(case, phase)}"
            found.append(_predicted(case, phase, plan, "tpot_s", "seconds", what))
    found.sort(key=lambda each: len(each.departures))
    return Answer((*found, *_turned_over(case, told)))


def _turned_over(case: Case, told: Mapping[str, Told]) -> Iterator[Derived]:
    if case.batch == 1:  # one token is in flight: its latency is the throughput turned over
        return
    for before in told.values():
        figure = before.claim.figure
        if before.claim.quantity == "throughput" and figure is not None and figure.value:
            rate = float(figure.value)
            text = (
                f"1 / {rate:,.6g} tokens/s = {1e6 / rate:.4g} us: a throughput turned over is the "
                "time between two tokens of all requests, no latency"
            )
            for factor, slip in ((1.0, ""), (1000.0, ", its unit off by a thousand")):
                label = f"1 / throughput{slip}"
                yield Derived(factor / rate, text, (OWN, label), (label,), holds=False)


def _load(case: Case, phase: str) -> str:
    if phase == "serving":
        return f"{case.batch} requests"
    return f"{case.batch} x {case.seq_len} tokens"


def _predicted(
    case: Case, phase: str, plan: Plan, name: str, dimension: Dimension, what: str
) -> Derived:
    known = plan.predictions[name]
    text = (
        f"{phase}: {what}, planned as {plan.name} = {show(known.value, dimension)} "
        f"({show(known.low, dimension)} to {show(known.high, dimension)}; {known.source})"
    )
    departs = () if case.phase else (phase,)
    return Derived(known.value, text, (phase,), departs, True, known.low, known.high)


def speedup(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Throughput, or one over latency, against a baseline strategy; nothing without one."""
    if claim.baseline is None:
        note = "a factor over something that is not described cannot be checked"
        if case.layout.pp > 1:
            pp = case.layout.pp
            share = bubble(case)[0]
            note += (
                f"; over one stage on its own GPUs the pipeline gives at most "
                f"{pp} x {100 * share:.1f} % = {pp * share:.3g} x"
            )
        return Answer(missing=("the baseline: its strategy, hardware and load",), note=note)
    before = case.with_strategy(claim.baseline)
    found = []
    for phase, plan in case.plans.items():
        if phase not in before.plans:
            continue
        name = "tokens_per_s"
        if claim.component == "latency":
            name = TIMES[phase][0]
        new, old = plan.predictions[name].value, before.plans[phase].predictions[name].value
        gain = old / new if claim.component == "latency" else new / old
        text = f"{phase}: {name} {new:,.4g} against {old:,.4g} of {claim.baseline} = {gain:.4g} x"
        found.append(Derived(gain, text, (phase,), () if case.phase else (phase,)))
    if found:
        return Answer(tuple(found))
    errors = [each for each in before.outcomes.values() if isinstance(each, InfeasibleError)]
    reasons = "; ".join(dict.fromkeys(reason for error in errors for reason in error.reasons))
    return Answer(missing=(f"a plan: {claim.baseline} cannot run: {reasons or 'nor can this'}",))

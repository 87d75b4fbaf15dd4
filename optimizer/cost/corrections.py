"""What a calibration file keeps of a user's own measured runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from optimizer.spec.frozen import Frozen, Name

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MAX_RUNS = 2_000  # whose covariances are solved in a second


class Run(Frozen):
    """One measured run: its series, its load, and measured over predicted seconds."""

    model: Name
    gpu: Name
    engine: str
    precision: str
    gpus: Positive
    concurrency: Positive
    input_len: Positive
    output_len: Positive
    ttft: Positive | None = None
    tpot: Positive | None = None


class Spread(Frozen):
    """Standard deviations of log(measured / predicted) TPOT that runs share, and how far apart in
    load they still share it. TTFT spreads about three times as much, signal and noise alike, which
    leaves every weight as it is."""

    gpu: Positive = 0.03  # runs of one engine on one GPU
    model: Positive = 0.06  # of one model besides
    series: Positive = 0.08  # of one precision and GPU count besides
    noise: Positive = 0.1  # of one run
    local: Annotated[float, Field(ge=0, le=1)] = 0.7  # share that fades with distance in load
    concurrency: Positive = 2.5  # logarithms over which it fades
    lengths: Positive = 1.5


class Corrections(Frozen):
    """Runs that predictions are drawn towards. The spreads were chosen on public runs of five
    models with one run given of each series, so they are the same for every user."""

    runs: Annotated[tuple[Run, ...], Field(min_length=1, max_length=MAX_RUNS)]
    spread: Spread = Spread()

"""A row's layouts: the one that it states, or all that its blank cells leave open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil

from pydantic import ValidationError

from optimizer.cost.training import (
    MODULES,
    Job,
    Software,
    TrainingLayouts,
    load_training_calibration,
)
from optimizer.errors import OptimizerError
from optimizer.evaluating_training.cells import (
    BITS,
    Row,
    number,
    precision_of,
    recompute_of,
    sharding_of,
    text,
    whole,
)
from optimizer.evaluating_training.models import model_of
from optimizer.evaluating_training.names import (
    Family,
    Source,
    family_of,
    pool_of,
    software_of,
    source_of,
)
from optimizer.spec.cluster import Pool
from optimizer.spec.model import ModelSpec

TENSOR = (1, 2, 4, 8)
STAGES = (1, 2, 4, 8, 16, 32)
CHUNKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12)
MICRO_BATCHES = (1, 2, 4, 8)
EXPERT_RANKS = (1, 2, 4, 8)
CHEAP = MODULES["mla_up_proj"] | MODULES["moe_act"] | MODULES["layernorm"]
UNSTATED = (0, CHEAP, MODULES["full"])  # recomputation where a row says nothing
STATED = {"gpus": "number of GPUs", "seq_len": "sequence length", "global_batch": "global batch"}
LORA_SHARE = 0.01  # of the parameters
DEEPSEEK_NODES = 4.0


@dataclass(frozen=True)
class Facts:
    """A row read: what is priced, and the layouts among which its blank cells choose."""

    model: ModelSpec
    pool: Pool
    software: Software
    source: Source
    job: Job
    global_batch: int
    gpus: int
    layouts: TrainingLayouts
    blank: tuple[str, ...]  # columns that were chosen


def read_row(row: Row) -> Facts:
    """Facts of a row; OptimizerError says why there are none."""
    name, notes = text(row, "model"), text(row, "notes")
    family, source = family_of(name), source_of(text(row, "source"))
    software = software_of(source, precision_of(row), text(row, "zero_or_dist_opt"), notes, name)
    model = _model(row, software.family == "megatron_2021" or family.line == "mpt")
    if family.unpriced:
        raise OptimizerError(f"{family.unpriced}, shape not stated")
    gpus = _stated(row, "gpus")
    job = _job(row, model, family, source, software)
    batch, pool = _stated(row, "global_batch"), pool_of(text(row, "gpu_type"))
    blank, layouts = _layouts(row, model, source, software, pool)
    return Facts(model, pool, software, source, job, batch, gpus, layouts, blank)


def _model(row: Row, tied: bool) -> ModelSpec:
    try:
        model = model_of(row, tied)
    except ValidationError as error:
        first = error.errors()[0]
        path = first.get("ctx", {}).get("path") or first["loc"]
        raise OptimizerError(f"{'.'.join(map(str, path))} {first['msg']}") from None
    if model is None:
        raise OptimizerError("no layers or hidden size")
    return model


def _job(row: Row, model: ModelSpec, family: Family, source: Source, software: Software) -> Job:
    """MTP is trained unless the row says otherwise; experts are balanced unless it says that the
    data route; DeepSeek-V3 sends a token to four nodes at most."""
    notes = text(row, "notes")
    without = "w/o mtp" in text(row, "model").lower() or source.source == "automodel"
    natural = "natural routing" in notes
    return Job(
        _stated(row, "seq_len"),
        flash=software.flash,
        mtp_layers=0 if without or model.mtp is None else model.mtp.num_layers,
        imbalance=load_training_calibration().values()["imbalance"] if natural else 1.0,
        most_nodes=DEEPSEEK_NODES if family.preset == "deepseek-v3" else float("inf"),
        trained=LORA_SHARE if "task=lora" in notes else 1.0,
    )


def _stated(row: Row, name: str) -> int:
    value = whole(row, name)
    if value is None:
        raise OptimizerError(f"{STATED[name]} not stated")
    return value


def _layouts(
    row: Row, model: ModelSpec, source: Source, software: Software, pool: Pool
) -> tuple[tuple[str, ...], TrainingLayouts]:
    """(columns that were blank, every layout that the stated ones allow)."""
    blank = [
        name
        for name in ("tp", "pp", "micro_batch", "recompute")
        if (text(row, name) == "" if name == "recompute" else whole(row, name) is None)
    ]
    found: list[dict[str, object]] = []
    for tp, pp in product(_given(row, "tp", TENSOR), _given(row, "pp", STAGES)):
        found += _of_grid(row, model, source, software, tp, pp)
    if not found:
        raise OptimizerError("no layout agrees with the stated columns")
    if len({entry["vp"] for entry in found}) > 1:
        blank.append("vp")
    if len({entry["ep"] for entry in found}) > 1:
        blank.append("ep")
    columns = {name: [entry[name] for entry in found] for name in found[0]}
    domain = pool.nvlink_domain or pool.gpus_per_node
    return tuple(blank), TrainingLayouts.of(domain, len(found), **columns)


def _given(row: Row, name: str, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    value = whole(row, name)
    return (value,) if value is not None else otherwise


def _of_grid(
    row: Row, model: ModelSpec, source: Source, software: Software, tp: int, pp: int
) -> Iterator[dict[str, object]]:
    """Layouts of one tp and pp. Replicas beyond the batch are context parallel; GPUs that no
    replica fills stand idle."""
    gpus, batch = whole(row, "gpus") or 1, whole(row, "global_batch") or 1
    cp = whole(row, "cp") or 1
    cp *= max(1, ceil(gpus / (tp * pp * cp) / batch))
    if tp * pp * cp > gpus or pp > model.num_layers:
        return
    dp = max(1, gpus // (tp * pp * cp))
    experts = model.moe.num_experts if model.moe else 0
    etp = (whole(row, "etp") or (tp if "ETP=TP" in text(row, "notes") else 1)) if experts else 1
    sharding = sharding_of(text(row, "zero_or_dist_opt"), software.family, source.sharding)
    sequence = number(row, "seq_parallel")
    if sequence is None:
        sequence = float(software.family != "megatron_2021")
    for micro, vp, (bits, share), ep in product(
        _micro_batches(row, batch / dp),
        _chunks(row, model, source, pp),
        _recompute(row, model, source, software.family),
        _expert_ranks(row, experts, tp * cp * dp),
    ):
        yield {
            "tp": tp,
            "pp": pp,
            "cp": cp,
            "dp": dp,
            "ep": ep,
            "etp": etp,
            "vp": vp,
            "micro_batch": micro,
            "micro_batches": max(1, ceil(batch / (dp * micro))),
            "sequence_parallel": int(tp > 1 and sequence > 0),
            "recompute": bits,
            "recompute_share": share,
            "sharding": sharding,
            "bits": BITS[precision_of(row)],
        }


def _micro_batches(row: Row, a_replica: float) -> tuple[int, ...]:
    found = tuple(size for size in MICRO_BATCHES if max(1.0, a_replica) % size == 0)
    return _given(row, "micro_batch", found or (1,))


def _chunks(row: Row, model: ModelSpec, source: Source, pp: int) -> tuple[int, ...]:
    if source.vp is not None or pp == 1:
        return _given(row, "vp", (source.vp or 1,))
    found = tuple(vp for vp in CHUNKS if model.num_layers % (pp * vp) == 0)
    return _given(row, "vp", found or (1,))


def _recompute(
    row: Row, model: ModelSpec, source: Source, family: str
) -> tuple[tuple[int, float], ...]:
    """Nothing, what is cheap to repeat, or everything, where nothing is stated."""
    cell = text(row, "recompute") or source.recompute or ""
    if cell:
        return (recompute_of(cell, model.num_layers),)
    _, cheap, full = UNSTATED
    some = MODULES["half"] if family == "torch" else cheap
    return ((0, 1.0), (some, 1.0), (full, 1.0))


def _expert_ranks(row: Row, experts: int, width: int) -> tuple[int, ...]:
    if not experts:
        return (1,)
    found = tuple(ep for ep in EXPERT_RANKS if experts % ep == 0 and width % ep == 0)
    return _given(row, "ep", found)

"""How published rows name models, GPUs and software: configs/calibration/training_rows.yaml."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

import yaml

from optimizer.cost.training.calibration import Software, load_training_calibration
from optimizer.errors import OptimizerError
from optimizer.spec.cluster import Pool
from optimizer.spec.data import configs_root
from optimizer.spec.frozen import Frozen
from optimizer.spec.presets import preset_paths
from optimizer.spec.reading import read_cluster


class Family(Frozen):
    """Rows of one model under any spelling."""

    name: str
    family: str
    line: str
    preset: str | None = None
    unpriced: str = ""


class Source(Frozen):
    """What a publisher's rows leave unsaid."""

    source: str
    software: str
    release: float | None = None
    memory: Literal["allocated", "reserved", "used"] = "allocated"
    recompute: Literal["none", "half"] | None = None
    vp: int | None = None
    sharding: Literal["none"] | None = None
    attention: Literal["whole", "causal"] = "whole"  # squares that its FLOP/s and MFU count


class GpuName(Frozen):
    gpu: str
    preset: str
    network: float | None = None  # GB/s


class RowNames(Frozen):
    families: tuple[Family, ...]
    sources: tuple[Source, ...]
    gpus: tuple[GpuName, ...]


@cache
def row_names() -> RowNames:
    """The table that ships."""
    path = configs_root() / "calibration" / "training_rows.yaml"
    return RowNames.model_validate(
        yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    )


@cache
def family_of(model: str) -> Family:
    """The family of a model's name; an unknown name is its own."""
    low = model.strip().lower()
    for entry in row_names().families:
        match = re.search(entry.name, low)
        if match:
            return entry.model_copy(update={"family": match.expand(entry.family)})
    return Family(name=low, family=low, line=low)


@cache
def source_of(source: str) -> Source:
    """What is known of a publisher; the last entry of the table matches any."""
    low = source.lower()
    entry = next(entry for entry in row_names().sources if re.search(entry.source, low))
    stamp = re.search(r"\((2\d)\.(\d\d)", source)
    if entry.release is None and stamp:
        release = 2000 + int(stamp[1]) + int(stamp[2]) / 12
        return entry.model_copy(update={"release": release})
    return entry


@cache
def pool_of(gpu: str) -> Pool:
    """The GPUs of a row: a preset's own name, else the first entry that matches."""
    exact = gpu.strip().lower().replace(" ", "-")
    if exact in preset_paths("hardware"):
        return read_cluster(exact).pools[0]
    for entry in row_names().gpus:
        if re.search(entry.gpu, gpu.lower()):
            pool = read_cluster(entry.preset).pools[0]
            if entry.network is None:
                return pool
            link = pool.inter_node.model_copy(
                update={"bandwidth_bytes_per_s": int(entry.network * 1e9)}
            )
            return pool.model_copy(update={"inter_node": link})
    known = ", ".join(sorted({entry.preset for entry in row_names().gpus}))
    raise OptimizerError(f"unknown GPU {gpu[:40]!r}; known are {known}")


def software_of(source: Source, precision: str, sharding: str, notes: str, model: str) -> Software:
    """The software of a row: its publisher's, with what the row itself says of it."""
    name = source.software
    if name == "megatron-deepspeed":
        name += "-fp16" if precision == "fp16" else "-bf16"
    software = load_training_calibration().software[name]
    said: dict[str, object] = {}
    if source.release is not None:
        said["release"] = source.release
    if name == "megatron-deepspeed-fp16" and "ZeRO-0" in sharding:
        said["gradient_bytes"] = 6.0
    if re.search("async ?tp", notes, re.IGNORECASE):
        said["overlap_tp"] = True
    new = (source.release or 0.0) > 2026.3  # a recipe of today says nothing of older releases
    if "DualPipe" in notes or ("a2a_overlap=True" in notes and new):
        said["overlap_ep"] = True
    if "FSDP eager" in notes:
        said["compiled"] = False
    if "tokendrop" in model.lower() or "capacity factor 1" in notes:
        said["static_shapes"] = True
    return software.model_copy(update=said)

"""Measured seconds of operators: one function a kind, in the visible collection TIMERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from optimizer.cost.demand import RING_BYTES, Device, Timed
from optimizer.cost.silicon.grids import Grid, gridded
from optimizer.cost.silicon.tables import ENGINES, Source, measured_rows
from optimizer.operators import Floats, Operator
from optimizer.spec.formats import FORMATS, Format

# How the tables call the formats of weights; formats without a name have no table.
STORED: Mapping[Format, str] = {
    "bf16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "mxfp4": "w4a16_mxfp4",
    "int4": "int4_wo",
}
CACHED = {2.0: "bfloat16", 1.0: "fp8"}  # bytes of a cached element -> the tables' name
FLOOR_S = 2e-6  # of a reference: no kernel is shorter
ELEMENT_BYTES = 2.0  # of an all-reduce's payload in the tables


class Rates(NamedTuple):
    """What a reference roofline divides by: operations/s, bytes/s."""

    flops_per_s: float
    bytes_per_s: float

    def ideal_s(self, flops: Floats, moved_bytes: Floats) -> Floats:
        """A roofline without any efficiency, which the tables are kept as factors over."""
        return np.asarray(
            FLOOR_S + np.hypot(flops / self.flops_per_s, moved_bytes / self.bytes_per_s)
        )


def _rates(device: Device, kind: Format) -> Rates:
    peak = device.gpu.peak_flops_per_s(device.compute(kind))
    return Rates(peak, device.gpu.memory_bandwidth_bytes_per_s)


def _logs(*columns: Floats) -> Floats:
    """[n, d] logarithms of columns that broadcast together."""
    together = np.broadcast_arrays(*(np.asarray(column, dtype=np.float64) for column in columns))
    found: Floats = np.log(np.stack(together, axis=-1))
    return found


def _timed(grid: Grid, reference_s: Floats, shape: Floats, point: Floats, known: Floats) -> Timed:
    """Looked up where `known`; elsewhere any number, which nobody counts."""
    found = grid.find(shape, point)
    return Timed(reference_s * found.factor, known, 0.0 * known, found.label, known)


def gemm(operator: Operator, device: Device, source: Source) -> Timed | None:
    """One m x k by k x n product, interpolated over all three sizes."""
    rates = _rates(device, operator.format)
    grid = _gemm_grid(device.gpu.name, source.file, operator.format, rates)
    if grid is None:
        return None
    asked = (operator.m, operator.n, operator.k)
    sizes = (np.maximum(np.asarray(size, dtype=float), 1.0) for size in asked)
    m, n, k = np.broadcast_arrays(*sizes)
    busy = np.where(operator.flops + 0.0 * m > 0, 1.0, 0.0)
    reference = _product_s(rates, operator.format, m, n, k)
    return _timed(grid, reference, _logs(np.ones_like(m)), _logs(n, k, m), busy)


def _product_s(rates: Rates, kind: Format, m: Floats, n: Floats, k: Floats) -> Floats:
    held = FORMATS[kind].bits / 8 * n * k
    return rates.ideal_s(2.0 * m * n * k, held + 2.0 * m * (n + k))


@cache
def _gemm_grid(gpu: str, file: str, kind: Format, rates: Rates) -> Grid | None:
    """All engines' tables together, the fastest kernel counts: they share these kernels, and what
    one of them timed outside CUDA graphs (vLLM's block-scaled 8 bits: 200 us of any size) is the
    host's time."""
    tables = [measured_rows(gpu, Source(engine, file), "gemm_perf") for engine in ENGINES]
    name = STORED.get(kind)
    found = [rows[rows["format"] == name] for rows in tables if rows is not None]
    if not any(map(len, found)):
        return None
    m, n, k, seconds = (
        np.concatenate([rows[name].to_numpy(float) for rows in found])
        for name in ("m", "n", "k", "seconds")
    )
    factors = seconds / _product_s(rates, kind, m, n, k)
    return gridded(np.ones((len(m), 1)), np.stack([n, k, m], axis=1), factors)


def attention(operator: Operator, device: Device, source: Source) -> Timed | None:
    """Grouped-query attention of one new token a sequence over its cache; prefill and other forms
    of attention keep the roofline."""
    shape = operator.heads
    if shape is None:
        return None
    rates = _rates(device, "bf16")
    grid = _attention_grid(device.gpu.name, source, shape.cache_bytes, rates)
    if grid is None:
        return None
    ones = np.ones_like(shape.sequences + shape.keys + shape.heads)
    sizes = (shape.sequences, shape.keys, shape.heads, shape.kv_heads)
    sequences, keys, heads, kv_heads = (ones * np.maximum(size, 1.0) for size in sizes)
    dim, window = ones * shape.head_dim, ones * shape.window
    reference = _cached_s(rates, shape.cache_bytes, sequences, keys, heads, kv_heads, dim, window)
    form = _logs(heads, kv_heads, dim, window)
    decodes = np.where(ones * shape.tokens == sequences, 1.0, 0.0)
    return _timed(grid, reference, form, _logs(sequences, keys), decodes)


def _cached_s(
    rates: Rates,
    cache_bytes: float,
    sequences: Floats,
    keys: Floats,
    heads: Floats,
    kv_heads: Floats,
    dim: Floats,
    window: Floats,
) -> Floats:
    seen = np.where(window > 1, np.minimum(window, keys), keys)
    moved = sequences * dim * (seen * 2 * kv_heads * cache_bytes + 4.0 * heads)
    return rates.ideal_s(4.0 * sequences * seen * heads * dim, moved)


@cache
def _attention_grid(gpu: str, source: Source, cache_bytes: float, rates: Rates) -> Grid | None:
    rows = measured_rows(gpu, source, "generation_attention_perf")
    if rows is None:
        return None
    rows = rows[(rows["cache"] == CACHED.get(cache_bytes)) & (rows["format"] == "bfloat16")]
    if not len(rows):
        return None
    names = ("sequences", "context", "heads", "kv_heads", "head_dim", "window", "seconds")
    sequences, context, heads, kv_heads, dim, window, seconds = (
        rows[name].to_numpy(float) for name in names
    )
    keys, window = context + 1.0, np.maximum(window, 1.0)
    kv_heads = np.where(kv_heads == 0, heads, kv_heads)
    reference = _cached_s(rates, cache_bytes, sequences, keys, heads, kv_heads, dim, window)
    form = np.stack([heads, kv_heads, dim, window], axis=1)
    return gridded(form, np.stack([sequences, keys], axis=1), seconds / reference)


def all_reduce(operator: Operator, device: Device, source: Source) -> Timed | None:
    """The engine's own one-shot all-reduce inside a domain, for the very numbers of ranks that were
    timed; larger payloads, which engines hand to NCCL, keep the model of a collective."""
    wire = Rates(np.inf, device.inside.bandwidth_bytes_per_s)
    grid = _all_reduce_grid(device.gpu.name, source, wire)
    if grid is None:
        return None
    payload, ranks = np.broadcast_arrays(
        np.asarray(operator.payload_bytes, dtype=float),
        np.asarray(operator.group_size, dtype=float),
    )
    measured = np.isclose(np.log(np.maximum(ranks, 1.0))[:, None], grid.shapes[:, 0]).any(axis=1)
    known = (
        measured & (np.asarray(operator.inside) == ranks) & (payload > 0) & (payload <= RING_BYTES)
    )
    some = np.maximum(payload, 1.0)
    reference = _ring_s(wire, ranks, some)
    timed = _timed(grid, reference, _logs(ranks), _logs(some), known.astype(float))
    return timed._replace(kernels=0.0 * timed.known, meetings=timed.known)


def _ring_s(wire: Rates, ranks: Floats, payload_bytes: Floats) -> Floats:
    return wire.ideal_s(np.zeros_like(ranks), 2.0 * (ranks - 1) / ranks * payload_bytes)


@cache
def _all_reduce_grid(gpu: str, source: Source, wire: Rates) -> Grid | None:
    rows = measured_rows(gpu, source, "custom_allreduce_perf")
    if rows is None:
        return None
    ranks, elements, seconds = (
        rows[name].to_numpy(float) for name in ("ranks", "elements", "seconds")
    )
    payload = ELEMENT_BYTES * elements
    return gridded(ranks[:, None], payload[:, None], seconds / _ring_s(wire, ranks, payload))


TIMERS: Mapping[str, Callable[[Operator, Device, Source], Timed | None]] = {
    "gemm": gemm,
    "attention": attention,
    "all_reduce": all_reduce,
}

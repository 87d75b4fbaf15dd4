"""Decode context parallelism: tensor ranks that would keep copies of the same KV heads keep a share
of their tokens instead, and read as much less in decode.

Each layer gathers the queries of the ranks that share a cache, attends to a rank's own tokens for
all of them, and adds the partial results up by their log-sum-exp (Milakov & Gimelshein, 2018).
Left out: a later prefill chunk gathers what is cached of the earlier ones, a percent of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.cost.job import Job, step_columns
from optimizer.cost.price import part_seconds
from optimizer.cost.pricing import Points, price_rows, uncut
from optimizer.cost.rows import Rows
from optimizer.layout import Space
from optimizer.operators import Family, Operator, lower
from optimizer.operators.operator import ACTIVATION_BYTES, Columns, collective, shards
from optimizer.spec.model import GroupedQueryAttention, LatentAttention, ModelSpec

EXPONENT_BYTES = 4.0  # a head's log-sum-exp, in fp32


def divides_cache(model: ModelSpec) -> bool:
    """Whether the cost model knows the decode of such attention cut over tokens: no windows, no
    chunks, no choice of tokens."""
    for layer in model.layer_types.values():
        kind = layer.attention
        if isinstance(kind, GroupedQueryAttention) and (kind.window or kind.chunk):
            return False
        if isinstance(kind, LatentAttention) and kind.indexer is not None:
            return False
    return True


def price_shared_cache(
    jobs: Sequence[Job], spaces: Sequence[Space], rows_of: Callable[..., Rows], ranks: int
) -> Candidates:
    """Candidates of layouts whose tensor ranks share each sequence's cache, `ranks` of them; their
    memory is that of an undivided cache."""
    found = []
    for job in jobs:
        layouts = spaces[job.pool].layouts
        rows = rows_of(layouts, job.workload, job.cluster.live_gpus(job.pool))
        columns = step_columns(job, rows, layouts)["decode"]
        families = [
            _shared(family, job.model, ranks) for family in lower(job.model, job.workload.engine)
        ]
        parts = part_seconds(families, columns, job.device, job.constants)
        decode = Points(parts, layouts.pp[rows.layout], np.arange(len(rows)))
        known = uncut(job, rows, layouts)
        known = known._replace(steps={**known.steps, "decode": decode})
        found.append(price_rows(job, rows, layouts, known))
    return Candidates.concatenate(found)


def _shared(family: Family, model: ModelSpec, ranks: int) -> Family:
    """A family whose attention, if it has one, runs over a share of the tokens for the heads of all
    the ranks that share them."""
    layer = model.layer_types.get(family.part)
    kind = layer.attention if layer is not None else None
    if "context" not in family.depends:
        return family
    if not isinstance(kind, GroupedQueryAttention | LatentAttention):
        return family
    attention = kind

    def build(columns: Columns) -> tuple[Operator, ...]:
        shared = np.ceil(columns["context"] / ranks)
        own = {**columns, "tp": columns["tp"] / ranks, "context": shared}
        return (*family.build(own), *_exchange(attention, columns, ranks))

    return Family(family.part, (*family.depends, "tp_inside", "tp_leaf"), build)


def _exchange(
    kind: GroupedQueryAttention | LatentAttention, columns: Columns, ranks: int
) -> tuple[Operator, ...]:
    """Queries gathered, partial results with their exponents reduced; payloads of one rank."""
    tokens, tp = columns["tokens"], columns["tp"]
    heads = shards(kind.num_heads, tp)
    if isinstance(kind, LatentAttention):
        asked, answered = kind.kv_lora_rank + kind.qk_rope_head_dim, kind.kv_lora_rank
    else:
        asked = answered = kind.head_dim
    size = np.full(len(tokens), float(ranks))
    place = (size, columns["tp_inside"], columns["tp_leaf"])
    each = tokens * heads
    queries = collective("dcp_queries", "all_gather", "cp", each * asked * ACTIVATION_BYTES, *place)
    exponents = collective("dcp_exponents", "all_gather", "cp", each * EXPONENT_BYTES, *place)
    results = collective(
        "dcp_results", "reduce_scatter", "cp", each * answered * ACTIVATION_BYTES, *place
    )
    return queries, exponents, results

"""GPUs to nodes, so that the copies of an expert lie on many nodes; the GPUs' loads stay.

Of all placements with the same loads this is one that lets more tokens find their expert on their
own node. An expert with one copy does not matter to it.
"""

from __future__ import annotations

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.pack import count

PROPOSALS = 600


def kept_tokens(loads: Floats, counts: Ints, held: Ints, nodes: int) -> Floats:
    """Tokens of each expert that one node holding `held` of its copies serves to itself.

    Tokens start on all nodes alike and each copy serves the same share of its expert's tokens; a
    router that prefers copies on its own node then keeps min(1 / nodes, held / copies) of them.
    All arrays are [layers, experts].
    """
    kept: Floats = loads * np.minimum(1 / nodes, held / counts)
    return kept


def spread_over_nodes(
    loads: Floats, placed: Ints, gpus: int, nodes: int, rng: np.random.Generator
) -> Ints:
    """`placed` [layers, slots] with its GPUs exchanged between nodes wherever more tokens are kept.

    Tries `PROPOSALS` pairs of GPUs, the same in every layer.
    """
    layers, experts = loads.shape
    if nodes == 1 or placed.shape[1] == experts:
        return placed
    counts = count(placed, experts)
    on_gpu = placed.reshape(layers, gpus, -1).copy()
    per_node = gpus // nodes

    def kept(node: int) -> Floats:
        slots = on_gpu[:, node * per_node : (node + 1) * per_node].reshape(layers, -1)
        by_layer: Floats = kept_tokens(loads, counts, count(slots, experts), nodes).sum(axis=1)
        return by_layer

    kept_now = np.stack([kept(node) for node in range(nodes)])
    for _ in range(PROPOSALS):
        pair = rng.choice(gpus, 2, replace=False)
        at = pair // per_node
        if at[0] == at[1]:
            continue
        on_gpu[:, pair] = on_gpu[:, pair[::-1]]
        kept_then = np.stack([kept(node) for node in at.tolist()])
        worse = kept_then.sum(axis=0) <= kept_now[at].sum(axis=0)
        on_gpu[np.ix_(worse, pair)] = on_gpu[np.ix_(worse, pair[::-1])]
        kept_now[at] = np.where(worse, kept_now[at], kept_then)
    return on_gpu.reshape(layers, -1)

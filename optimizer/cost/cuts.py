"""Where a model is cut into stages: evenly, or so that no stage reads more bytes than it must."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.candidates import Candidates
from optimizer.cost.job import Job
from optimizer.cost.pricing import price_rows, uncut
from optimizer.cost.rows import Rows
from optimizer.cost.stages import Cut, even_cut, even_stages
from optimizer.layout import Ints, Layouts
from optimizer.spec.formats import matrix_bytes
from optimizer.spec.linears import Linear, head_linears, layer_linears
from optimizer.spec.model import ModelSpec

NO_LESS = 1e-9  # share of tokens/s that is not told apart


def balanced_cut(model: ModelSpec, pp: int) -> tuple[int, ...]:
    """Layers of each stage so that the weights which the largest stage reads in a decode step are
    as few as can be: all of its layers', and the head's on the last stage. Of such cuts the one
    nearest to even; the even cut itself where it is one of them."""
    return _balanced(*layer_weights(model), pp)


def balancing(model: ModelSpec) -> Cut:
    """balanced_cut of one model, its weights summed up once."""
    layers, head = layer_weights(model)
    return lambda _, pp: _balanced(layers, head, pp)


def layer_weights(model: ModelSpec) -> tuple[tuple[int, ...], int]:
    """Bytes of each layer, and of the head."""
    sizes = {
        name: sum(_bytes(linear, model) for linear in layer_linears(layer, model.hidden_size))
        for name, layer in model.layer_types.items()
    }
    head = sum(_bytes(linear, model) for linear in head_linears(model))
    return tuple(sizes[name] for name in model.layer_names), head


@cache
def _balanced(layers: tuple[int, ...], head: int, pp: int) -> tuple[int, ...]:
    even = even_cut(len(layers), pp)
    most = least_largest(layers, head, pp)
    return even if largest(layers, head, even) <= most else _filled(layers, head, pp, most)


def _bytes(linear: Linear, model: ModelSpec) -> int:
    kind = getattr(model.precision, linear.part)
    return linear.copies * int(matrix_bytes(linear.inputs, linear.outputs, kind))


def largest(layers: Sequence[int], head: int, cut: Sequence[int]) -> int:
    """The largest stage of a cut; the head adds to the last."""
    ends = list(accumulate(cut))
    sums = [sum(layers[end - size : end]) for size, end in zip(cut, ends, strict=True)]
    return max(*sums[:-1], sums[-1] + head) if len(sums) > 1 else sums[0] + head


def least_largest(layers: Sequence[int], head: int, pp: int) -> int:
    """The least possible largest stage over all cuts into pp stages of one layer at least: exact,
    by bisection over whole numbers of bytes."""
    low, high = max([*layers[:-1], layers[-1] + head]), sum(layers) + head
    while low < high:
        middle = (low + high) // 2
        if _needed(layers, head, middle)[0] <= pp:
            high = middle
        else:
            low = middle + 1
    return low


def _needed(layers: Sequence[int], head: int, most: int) -> list[int]:
    """The fewest stages for all layers from each one on, none above `most`, by filling from the
    back."""
    needed = [1] * len(layers)
    held, stages = head, 1
    for index in range(len(layers) - 1, -1, -1):
        held += layers[index]
        if held > most:
            held, stages = layers[index], stages + 1
        needed[index] = stages
    return needed


def _filled(layers: Sequence[int], head: int, pp: int, most: int) -> tuple[int, ...]:
    """A cut with no stage above `most`, each as near to an even share of what is left as can be."""
    needed = [*_needed(layers, head, most), 0]
    cut: list[int] = []
    start = 0
    for left in range(pp, 1, -1):
        able = []
        held = 0
        for size in range(1, len(layers) - start - left + 2):
            held += layers[start + size - 1]
            if held > most:
                break
            if needed[start + size] <= left - 1:
                able.append(size)
        share = (len(layers) - start) / left
        size = min(able, key=lambda size: (abs(size - share), size))
        cut.append(size)
        start += size
    return (*cut, len(layers) - start)


def price_best_cut(job: Job, rows: Rows, layouts: Layouts) -> Candidates:
    """Every candidate priced, its layers on stages evenly, or balanced by bytes where that keeps a
    limit or gives more tokens/s."""
    known = uncut(job, rows, layouts)
    found = price_rows(job, rows, layouts, known)
    cut = balancing(job.model)
    uneven = [
        pp
        for pp in np.unique(layouts.pp).tolist()
        if cut(job.model, pp) != even_stages(job.model, pp)
    ]
    staged = np.flatnonzero(np.isin(layouts.pp, uneven)[rows.layout])
    if not len(staged):
        return found
    balanced = job._replace(cut=cut)
    other = price_rows(balanced, rows.take(staged), layouts, known.take(staged))
    better = beats(other, found, staged)
    return found.overlaid(staged[better], other, np.flatnonzero(better))


def beats(one: Candidates, other: Candidates, rows: Ints) -> NDArray[np.bool_]:
    """Whether each row keeps limits that the other's row breaks or, both alike, gives more
    tokens/s."""
    keeps, kept = one.broken() == 0, (other.broken() == 0)[rows]
    more = one.tokens_per_s > other.tokens_per_s[rows] * (1 + NO_LESS)
    found: NDArray[np.bool_] = (keeps & ~kept) | ((keeps == kept) & more)
    return found


def settled(job: Job, rows: Rows, layouts: Layouts) -> tuple[Job, float | None]:
    """(the job with the cut that price_best_cut took of one row, the share of tokens/s that the
    even cut would lose; None where that breaks a limit)."""
    balanced = job._replace(cut=balancing(job.model))
    even, other = (price_rows(each, rows, layouts) for each in (job, balanced))
    if not beats(other, even, np.zeros(1, dtype=np.int64))[0]:
        return job, 0.0
    if even.broken()[0]:
        return balanced, None
    return balanced, float(1 - even.tokens_per_s[0] / other.tokens_per_s[0])

"""What every move of one slot would do, in all layers at once: swaps and changes of counts.

A move is priced by a penalty of each GPU's load relative to the bound, summed over the GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.pack import count

Bools = NDArray[np.bool_]
Penalty = Callable[[Floats], Floats]  # of the load above a threshold, negative below it
FORBIDDEN = 1e9  # loads are relative to bounds: outweighs every legal move


@dataclass(frozen=True)
class Rules:
    """What a placement must keep to beside one copy of every expert."""

    gpus: int
    distinct: bool = False  # no two copies of an expert on one GPU
    max_moves: int | None = None  # slots of a layer that may differ from `start`


@dataclass(frozen=True)
class State:
    """Placements, a row each. Slot k of GPU g is k x gpus + g: sums over a GPU run along memory."""

    loads: Floats  # [rows, experts], relative to the bounds
    counts: Floats  # [rows, experts]
    placed: Ints  # [rows, slots], the expert of each slot
    start: Ints  # [rows, slots], from which moves are counted

    def take(self, rows: Ints) -> State:
        return State(self.loads[rows], self.counts[rows], self.placed[rows], self.start[rows])

    def pieces(self, gpus: int) -> Floats:
        """Load of each slot: [rows, slots of a GPU, gpus]."""
        pieces: Floats = (self.loads / self.counts).ravel()[self.flat()]
        return pieces.reshape(len(pieces), -1, gpus)

    def flat(self) -> Ints:
        """Where each slot's expert stands in arrays of [rows, experts], raveled."""
        flat: Ints = self.placed + self.loads.shape[1] * np.arange(len(self.placed))[:, None]
        return flat

    def moves(self) -> Ints:
        """Slots of each row that differ from the start: [rows, 1]."""
        moves: Ints = np.count_nonzero(self.placed != self.start, axis=1, keepdims=True)
        return moves


@dataclass(frozen=True)
class Scene:
    """The slot that each row is about to change, and the loads around it."""

    row: Ints  # [rows]
    pieces: Floats  # [rows, slots of a GPU, gpus]
    over: Floats  # [rows, 1, gpus], load above a threshold, negative below it
    gpu: Ints  # [rows]
    slot: Ints  # [rows]
    expert: Ints  # [rows], in that slot


def begin(loads: Floats, placed: Ints, start: Ints, bound: Floats, gpus: int) -> State:
    """The state of `placed`, with `start` as what lies there now; both [rows, slots] GPU by GPU."""
    return State(
        loads=loads / np.where(bound > 0, bound, 1.0)[:, None],
        counts=count(placed, loads.shape[1]).astype(np.float64),
        placed=transpose(placed, gpus, -1),
        start=transpose(start, gpus, -1),
    )


def transpose(placed: Ints, outer: int, inner: int) -> Ints:
    """[rows, outer x inner] -> [rows, inner x outer], a copy."""
    shaped = placed.reshape(len(placed), outer, inner)
    return shaped.swapaxes(1, 2).reshape(len(placed), -1).copy()


def swap_costs(state: State, scene: Scene, rules: Rules, penalty: Penalty) -> Floats:
    """Change of the penalties when the slot changes places with each other: [rows, slots]."""
    row, here, expert = scene.row, scene.slot, scene.expert[:, None]
    gain = scene.pieces - scene.pieces.reshape(len(row), -1)[row, here][:, None, None]
    over_here = scene.over[row, :, scene.gpu][:, :, None]
    cost = penalty(gain + over_here) - penalty(over_here)
    cost += penalty(scene.over - gain) - penalty(scene.over)
    cost[row, :, scene.gpu] = FORBIDDEN
    cost = cost.reshape(len(row), -1)
    if rules.distinct:
        cost[_doubles(state, scene) | _held(state, scene)] = FORBIDDEN
    if rules.max_moves is not None:
        start_here = state.start[row, here][:, None]
        more = (expert != state.start).astype(np.int64) + (state.placed != start_here)
        more -= (state.placed != state.start).astype(np.int64) + (expert != start_here)
        cost[state.moves() + more > rules.max_moves] = FORBIDDEN
    return cost


def swap(state: State, scene: Scene, rows: Ints, there: Ints) -> None:
    """Exchange each row's slot with slot `there` [of the rows given]."""
    row, here = scene.row[rows], scene.slot[rows]
    state.placed[row, here] = state.placed[row, there]
    state.placed[row, there] = scene.expert[rows]


def recount_costs(state: State, scene: Scene, rules: Rules, penalty: Penalty) -> Floats:
    """Change of the penalties when counts change: [rows, slots + experts].

    The first `slots` columns give the slot's expert one more copy there; the others give the slot
    to that expert. The two experts are priced apart: a GPU that holds both and whose slots do not
    change is misjudged.
    """
    row, here = scene.row, scene.slot
    rows, experts = state.loads.shape
    expert = scene.expert[:, None]
    flat = state.flat()
    piece = state.loads / state.counts
    thinner = state.loads / (state.counts + 1)
    thicker = state.loads / np.maximum(state.counts - 1, 1)
    thicker_slot = thicker.ravel()[flat].reshape(scene.pieces.shape)
    copies = _copies_beside(state, scene)
    before = penalty(scene.over)

    def change(new_piece: Floats) -> tuple[Floats, Floats]:
        """What a changed piece adds to each slot's GPU, and to all GPUs that hold the expert."""
        delta = copies * (new_piece.ravel()[flat].reshape(scene.pieces.shape) - scene.pieces)
        on_gpu = penalty(scene.over + delta) - before
        once = (on_gpu / copies).ravel()
        by_expert: Floats = np.bincount(flat.ravel(), once, rows * experts).astype(np.float64)
        return on_gpu, by_expert.reshape(rows, experts)

    lost_on_gpu, lost = change(thicker)
    _, gained = change(thinner)
    without = scene.over - copies * scene.pieces + (copies - 1) * thicker_slot

    own, own_thinner = piece[row, scene.expert], thinner[row, scene.expert]
    same = (state.placed == expert).reshape(scene.pieces.shape).sum(axis=1, keepdims=True)
    shrink = same * (own_thinner - own)[:, None, None]
    grow = penalty(without + shrink + own_thinner[:, None, None]) - penalty(scene.over + shrink)
    grow = (grow - lost_on_gpu).reshape(rows, -1) + lost.ravel()[flat]
    grow += gained[row, scene.expert][:, None]
    grow[(state.placed == expert) | (state.counts.ravel()[flat] < 2)] = FORBIDDEN

    beside = np.zeros((rows, experts))
    np.add.at(beside, (row[:, None], _beside(state, scene)), 1)
    shrink = beside * (thinner - piece)
    over_here = scene.over[row, :, scene.gpu]
    without_here = without.reshape(rows, -1)[row, here][:, None]
    give = penalty(without_here + shrink + thinner) - penalty(over_here + shrink) + gained
    give += (lost[row, scene.expert] - lost_on_gpu.reshape(rows, -1)[row, here])[:, None]
    give[row, scene.expert] = FORBIDDEN
    give[state.counts[row, scene.expert] < 2] = FORBIDDEN

    if rules.distinct:
        grow[_doubles(state, scene)] = FORBIDDEN
        give[beside > 0] = FORBIDDEN
    if rules.max_moves is not None:
        start_here = state.start[row, here][:, None]
        more = (expert != state.start).astype(np.int64) - (state.placed != state.start)
        grow[state.moves() + more > rules.max_moves] = FORBIDDEN
        more = (np.arange(experts) != start_here).astype(np.int64) - (expert != start_here)
        give[state.moves() + more > rules.max_moves] = FORBIDDEN
    return np.concatenate([grow, give], axis=1)


def recount(state: State, scene: Scene, rows: Ints, column: Ints) -> None:
    """Make the change of counts that stands in `column` of `recount_costs` [of the rows given]."""
    slots = state.placed.shape[1]
    row = scene.row[rows]
    target = np.where(column < slots, column, scene.slot[rows])
    new = np.where(column < slots, scene.expert[rows], column - slots)
    state.counts[row, state.placed[row, target]] -= 1
    state.counts[row, new] += 1
    state.placed[row, target] = new


def _beside(state: State, scene: Scene) -> Ints:
    """The experts on the slot's GPU: [rows, slots of a GPU]."""
    return state.placed.reshape(scene.pieces.shape)[scene.row, :, scene.gpu]


def _copies_beside(state: State, scene: Scene) -> Floats:
    """How often each slot's expert lies on its GPU: [rows, slots of a GPU, gpus]."""
    placed = state.placed.reshape(scene.pieces.shape)
    copies = np.zeros(scene.pieces.shape)
    for slot in range(scene.pieces.shape[1]):
        copies += placed == placed[:, slot : slot + 1]
    return copies


def _doubles(state: State, scene: Scene) -> Bools:
    """Slots [rows, slots] whose GPU already holds the chosen slot's expert."""
    same = (state.placed == scene.expert[:, None]).reshape(scene.pieces.shape)
    return np.broadcast_to(same.any(axis=1, keepdims=True), same.shape).reshape(len(same), -1)


def _held(state: State, scene: Scene) -> Bools:
    """Slots [rows, slots] whose expert already lies on the chosen slot's GPU."""
    held = np.zeros(state.loads.shape, dtype=bool)
    held[scene.row[:, None], _beside(state, scene)] = True
    return held.ravel()[state.flat()]

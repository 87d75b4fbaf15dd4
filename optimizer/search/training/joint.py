"""Layers on stages and recomputation by layer, chosen together by CP-SAT for one row of choices.

Layers of one type are alike, so that the model counts them: k[s, t, r] layers of type t on stage s
recompute by mode r. Where types differ, chunk boundaries decide which layers those are. A stage's
seconds, and its bytes with as many micro-batches as it keeps in flight, are linear in the counts;
the step is (m - 1/vp) x the slowest stage + all stages / vp, and what no cut changes.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from optimizer.cost.training.cuts import CutPieces, cut_pieces, price_cut
from optimizer.cost.training.layouts import NOTHING, TrainingLayouts
from optimizer.layout import Ints
from optimizer.search.solver import new_solver
from optimizer.search.training.cutting import chunk_sizes
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.prices import bound_step, even_stages, jitter_of, row_prices
from optimizer.search.training.stages import Chosen

TIME_STEPS = 1e6  # of one micro-batch through the whole model
BYTES_STEP = 2.0**16
SLACK = 2e-3  # of the cutoff: data-parallel traffic hides a little better behind slower stages
EFFORT = 0.5  # deterministic seconds of one row
GAP = 5e-4  # of the pipeline's seconds: closer is not told apart


class Solved(NamedTuple):
    """A row's best stages, and whether they are proven; None: nothing below the cutoff."""

    chosen: Chosen | None
    step_s: float
    memory_bytes: float
    proven: bool


def solve_row(job: TrainingJob, row: TrainingLayouts, cutoff_s: float) -> Solved:
    """The best cut and recomputation of a single row whose step is below the cutoff."""
    found = _Model(job, row)
    found.limit(cutoff_s)
    solver = new_solver()
    solver.parameters.cp_model_presolve = True
    solver.parameters.max_deterministic_time = EFFORT
    solver.parameters.relative_gap_limit = GAP
    status = solver.solve(found.model)
    proven = status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solved(None, np.inf, np.inf, proven)
    chosen = found.chosen(solver)
    pp = int(row.pp[0])
    counts = np.stack([chosen.by_chunk[stage::pp].sum(axis=0) for stage in range(pp)])
    priced = price_cut(found.pieces, counts, job.rates, chosen.mtp_mode)
    allocated = float(priced.memory.allocated[0]) + job.reserve_bytes
    return Solved(chosen, float(priced.step.step_s[0]), allocated, proven)


class _Model:
    """The solver's model of one row."""

    def __init__(self, job: TrainingJob, row: TrainingLayouts) -> None:
        self._job, self._row = job, row
        self._pp, self._vp = int(row.pp[0]), int(row.vp[0])
        self._kinds, self._names = list(job.model.layer_types), job.model.layer_names
        self._modes = tuple(job.modes.values())
        self.pieces: CutPieces = cut_pieces(job.model, row, job.rates, job.step, self._modes)
        self.model = cp_model.CpModel()
        self._count = {
            key: self.model.new_int_var(0, len(self._names), "k")
            for key in product(range(self._pp), range(len(self._kinds)), range(len(self._modes)))
        }
        for kind in range(len(self._kinds)):
            for mode in self._beaten(kind):
                for stage in range(self._pp):
                    self.model.add(self._count[stage, kind, mode] == 0)
        self._mtp = [self.model.new_bool_var("mtp") for _ in self._modes]
        self.model.add_exactly_one(self._mtp)
        self._bounds: list[cp_model.IntVar] = []
        self._place()
        self._limit_memory()
        self._time()

    def _beaten(self, kind: int) -> list[int]:
        """Modes that another takes no longer, keeps no more and needs no more at once than."""
        held = self.pieces.priced.memory_pieces.layers[kind]
        seconds = self.pieces.priced.pieces.layers[kind].both_s
        columns = np.stack([seconds, held.kept, held.working])
        beats = (columns[:, :, None] <= columns[:, None, :]).all(axis=0)  # [by, of]
        earlier = np.triu(np.ones_like(beats), 1)
        return np.flatnonzero((beats & (~beats.T | earlier)).any(axis=0)).tolist()

    def _stage(self, stage: int, kind: int) -> Any:
        return sum(self._count[stage, kind, mode] for mode in range(len(self._modes)))

    def _place(self) -> None:
        """Each layer lies on one stage; each chunk holds a layer, an end may stand alone."""
        many, chunks = len(self._names), self._pp * self._vp
        spare = [int(self._pp > 1 and stage in (0, self._pp - 1)) for stage in range(self._pp)]
        if len(self._kinds) == 1:
            for stage in range(self._pp):
                self.model.add(self._stage(stage, 0) >= self._vp - spare[stage])
            self.model.add(sum(self._stage(stage, 0) for stage in range(self._pp)) == many)
            return
        self._bounds = [self.model.new_int_var(0, many, "b") for _ in range(chunks + 1)]
        self.model.add(self._bounds[0] == 0)
        self.model.add(self._bounds[-1] == many)
        for chunk in range(chunks):
            least = 0 if chunks > 1 and chunk in (0, chunks - 1) else 1
            self.model.add(self._bounds[chunk + 1] >= self._bounds[chunk] + least)
        for kind, name in enumerate(self._kinds):
            here = [int(each == name) for each in self._names]
            before = [0, *np.cumsum(here).tolist()]
            at = [self.model.new_int_var(0, before[-1], "c") for _ in self._bounds]
            for bound, value in zip(self._bounds, at, strict=True):
                self.model.add_element(bound, before, value)
            for stage in range(self._pp):
                held = sum(at[c + 1] - at[c] for c in range(stage, chunks, self._pp))
                self.model.add(self._stage(stage, kind) == held)

    def _limit_memory(self) -> None:
        """No stage takes more than the limit: states, activations in flight, the largest layer's
        working set, what stands at the ends."""
        held, rates = self.pieces.priced.memory_pieces, self._job.rates
        row, job = self._row, self._job
        sharded = bool(row.fully_sharded[0])
        table = float(held.table_resident[0] + held.table_optimizer[0])
        around = float(np.max(rates.workspace_bytes)) + job.reserve_bytes
        around += float(held.table_gathered[0]) if sharded else 0.0
        predicted = float(np.max(held.mtp_layers))
        for stage in range(self._pp):
            flight = self.pieces.flight(stage) * float(np.max(rates.kept))
            first, last = stage == 0, stage == self._pp - 1
            fixed = around + table * first
            terms: list[Any] = []
            if last:
                alone = 1.0 - float(held.tied) if first else 1.0
                fixed += alone * table + float(held.logits[0]) * (1 + predicted)
                copied = held.layers[held.last]
                for mode, used in enumerate(self._mtp):
                    own = copied.resident[0] + copied.optimizer[0] + flight * copied.kept[mode]
                    terms.append(_up(predicted * float(own)) * used)
            most = int(job.memory_limit_bytes / BYTES_STEP)
            working = self.model.new_int_var(0, most, "w")
            for kind, mode in product(range(len(self._kinds)), range(len(self._modes))):
                layer = held.layers[kind]
                own = layer.resident[0] + layer.optimizer[0] + flight * layer.kept[mode]
                terms.append(_up(float(own)) * self._count[stage, kind, mode])
                size = float(layer.working[mode] * np.max(rates.working))
                size += 2.0 * float(layer.gathered[0]) if sharded else 0.0
                self._when_used(self._count[stage, kind, mode], working, _up(size))
            left = int((job.memory_limit_bytes - fixed) / BYTES_STEP)
            self.model.add(sum(terms) + working <= left)

    def _when_used(self, count: cp_model.IntVar, working: cp_model.IntVar, size: int) -> None:
        used = self.model.new_bool_var("u")
        self.model.add(count <= len(self._names) * used)
        self.model.add(working >= size * used)

    def _time(self) -> None:
        pieces = self.pieces.priced.pieces
        ends = [float(each.both_s[0]) for each in (pieces.embedding, pieces.head)]
        seconds = [[float(each) for each in layer.both_s] for layer in pieces.layers]
        whole = sum(
            max(own) * self._names.count(name)
            for own, name in zip(seconds, self._kinds, strict=True)
        )
        self._scale = TIME_STEPS / (whole + sum(ends) + float(np.max(pieces.mtp.both_s)))
        stages: list[Any] = []
        for stage in range(self._pp):
            terms: list[Any] = [
                self._grid(seconds[kind][mode]) * self._count[stage, kind, mode]
                for kind, mode in product(range(len(self._kinds)), range(len(self._modes)))
            ]
            terms.append(self._grid(ends[0]) if stage == 0 else 0)
            if stage == self._pp - 1:
                terms.append(self._grid(ends[1]))
                terms += [
                    self._grid(float(pieces.mtp.both_s[mode])) * used
                    for mode, used in enumerate(self._mtp)
                ]
            stages.append(sum(terms))
        slowest = self.model.new_int_var(0, int(2 * TIME_STEPS), "slowest")
        for stage_s in stages:
            self.model.add(slowest >= stage_s)
        rounds = int(self._row.micro_batches[0]) * self._vp - 1
        self._objective = rounds * slowest + sum(stages)
        self.model.minimize(self._objective)

    def _grid(self, seconds: float) -> int:
        return round(seconds * self._scale)

    def limit(self, cutoff_s: float) -> None:
        """Nothing whose step is above the cutoff: what a step has beside the objective's seconds is
        no less than under the even spread, but for SLACK of it."""
        if not np.isfinite(cutoff_s):
            return
        row, rates = self._row, self._job.rates
        prices = row_prices(self._job, row, NOTHING)
        stages = even_stages(self._job, row, prices)
        step, _ = bound_step(self._job, row, prices, stages)
        rounds = int(row.micro_batches[0]) * self._vp - 1
        weight = float((np.asarray(rates.engine) * jitter_of(self._job, row))[0]) / self._vp
        least = rounds * float(stages.slowest_s[0]) + float(stages.total_s[0])
        beside = float(step[0]) - weight * least
        most = (cutoff_s - beside) / weight * (1 + SLACK)
        self.model.add(self._objective <= max(0, int(most * self._scale)))

    def chosen(self, solver: cp_model.CpSolver) -> Chosen:
        """The counts as chunks. The first chunks have the most micro-batches in flight when the
        last have none, up to 2 pp: there are the layers that keep least."""
        held = np.zeros((self._pp, len(self._kinds), len(self._modes)), dtype=np.int64)
        for key, count in self._count.items():
            held[key] = solver.value(count)
        sizes: Ints
        if self._bounds:
            sizes = np.diff([solver.value(bound) for bound in self._bounds])
        else:
            layers = held.sum(axis=(1, 2))[None, :]
            sizes = chunk_sizes(layers, self._row.pp, self._row.vp)[0]
        by_chunk = np.zeros((len(sizes), *held.shape[1:]), dtype=np.int64)
        layers_held = self.pieces.priced.memory_pieces.layers
        leanest = [np.argsort(each.kept, kind="stable") for each in layers_held]
        layer = 0
        for chunk, size in enumerate(sizes.tolist()):
            for name in self._names[layer : layer + size]:
                kind = self._kinds.index(name)
                left = held[chunk % self._pp, kind]
                mode = next(int(each) for each in leanest[kind] if left[each])
                left[mode] -= 1
                by_chunk[chunk, kind, mode] += 1
            layer += size
        mtp = next(mode for mode, used in enumerate(self._mtp) if solver.value(used))
        return Chosen(self._modes, by_chunk, mtp)


def _up(size_bytes: float) -> int:
    return int(np.ceil(size_bytes / BYTES_STEP))

"""benchmarks/data/training.csv as columns: every row's layouts lowered once, rates left open.

Rows of many models, GPUs and softwares stand in one table, so that a fit prices them all in one
call: layer types by place (the last type of each model last), operators by name, zero where a model
has none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from optimizer.cost.training import (
    Software,
    TrainingLayouts,
    load_training_calibration,
    model_flops,
    rates_of,
)
from optimizer.cost.training.layouts import Floats
from optimizer.cost.training.lowering import Layer, Lowered, Work, lower
from optimizer.cost.training.memory import Activations, activations_of, memory_pieces
from optimizer.cost.training.pieces import pieces_of
from optimizer.cost.training.rates import Rates, gathered
from optimizer.cost.training.stage_memory import Memory, memory_of
from optimizer.cost.training.step import step_of
from optimizer.errors import OptimizerError
from optimizer.evaluating_training import Facts, family_of, read_row
from optimizer.layout import Ints
from optimizer.spec.cluster import Pool

DATA = Path(__file__).parent / "data"
MOST_TYPES = 2  # layer types of any measured model
SAME = [
    *("family", "layers", "heads", "gpu_type", "gpus", "seq_len", "global_batch", "micro_batch"),
    *("tp", "pp", "vp", "ep", "cp", "recompute", "precision", "zero_or_dist_opt"),
    *("measured_step_s", "measured_mem_gb", "measured_tflops_per_gpu"),
]
OUT_OF_MEMORY = r"OOM \(negative label\)"


@dataclass(frozen=True)
class Table:
    """Rows that can be priced and all layouts that their blanks allow; owner[i]: the row of layout
    i. rows gain family, step (measured seconds), oom and full (no guessed pipeline)."""

    rows: pd.DataFrame
    facts: tuple[Facts, ...]
    kinds: tuple[tuple[Pool, Software], ...]
    layouts: TrainingLayouts
    owner: Ints
    kind: Ints  # of each layout, into kinds
    lowered: Lowered
    activations: Activations
    limit: Floats  # bytes of the GPU

    def take(self, chosen: Ints) -> Table:
        """The chosen layouts; rows and facts stay."""
        return replace(
            self,
            layouts=self.layouts.take(chosen),
            owner=self.owner[chosen],
            kind=self.kind[chosen],
            lowered=_taken(self.lowered, chosen),
            activations=self.activations.take(chosen),
            limit=self.limit[chosen],
        )

    def rates(self, constants: dict[str, float]) -> Rates:
        """What each layout's GPUs and software reach."""
        return gathered([rates_of(constants, *kind) for kind in self.kinds], self.kind)

    def step_s(self, constants: dict[str, float]) -> Floats:
        """Predicted seconds of every layout."""
        rates = self.rates(constants)
        return step_of(pieces_of(self.lowered, self.layouts, rates), self.layouts, rates).step_s

    def memory(self, constants: dict[str, float]) -> Memory:
        """Predicted memory of every layout."""
        rates = self.rates(constants)
        held = memory_pieces(self.lowered, self.activations, self.layouts, rates)
        return memory_of(held, self.layouts, rates)


def read_rows(path: Path = DATA / "training.csv") -> tuple[pd.DataFrame, list[Facts | str]]:
    """Rows with family, oom, duplicate; and the facts of each, or why there are none."""
    rows = pd.read_csv(path)
    families = [family_of(str(name)) for name in rows["model"]]
    rows["family"] = [family.family for family in families]
    rows["oom"] = rows["notes"].astype(str).str.contains(OUT_OF_MEMORY)
    rows["oom"] &= rows["measured_step_s"].isna()
    measured = rows["measured_step_s"].notna() | rows["measured_tflops_per_gpu"].notna()
    rows["duplicate"] = rows.duplicated(SAME) & measured
    found: list[Facts | str] = []
    for record in rows.to_dict("records"):
        try:
            found.append(read_row(record))
        except OptimizerError as error:
            found.append(str(error).splitlines()[0])
    return rows, found


def read_table(path: Path = DATA / "training.csv") -> Table:
    """Every row that can be priced, duplicates dropped."""
    rows, found = read_rows(path)
    keep = [
        i for i, facts in enumerate(found) if isinstance(facts, Facts) and not rows["duplicate"][i]
    ]
    facts = tuple(x for i in keep if isinstance(x := found[i], Facts))
    rows = rows.iloc[keep].reset_index(drop=True)
    steps = [measured_step_s(row, x) for row, x in zip(rows.to_dict("records"), facts, strict=True)]
    guessed = np.array([bool({"micro_batch", "vp"} & set(x.blank)) for x in facts])
    rows = rows.assign(step=steps, full=~guessed & rows["measured_step_s"].notna())
    sizes = [len(x.layouts) for x in facts]
    kinds = {(x.pool.model_dump_json(), x.software): (x.pool, x.software) for x in facts}
    places = list(kinds)
    kind = [places.index((x.pool.model_dump_json(), x.software)) for x in facts]
    shipped = load_training_calibration().values()
    alike = [rates_of(shipped, *pair) for pair in kinds.values()]
    return Table(
        rows,
        facts,
        tuple(kinds.values()),
        TrainingLayouts.concatenate([x.layouts for x in facts]),
        np.repeat(np.arange(len(facts)), sizes),
        np.repeat(kind, sizes),
        stacked([lower(x.model, x.layouts, x.job) for x in facts]),
        _activations(facts, [alike[i] for i in kind]),
        np.repeat([float(x.pool.gpu.memory_bytes) for x in facts], sizes),
    )


def measured_step_s(row: dict[str, object], facts: Facts) -> float:
    """Stated seconds; else from tokens a second, else from TFLOP/s as the source counts them."""
    stated, rate = float(row["measured_step_s"]), float(row["measured_tokens_per_s_per_gpu"])
    tflops, tokens = float(row["measured_tflops_per_gpu"]), facts.global_batch
    if np.isfinite(stated):
        return stated
    if np.isfinite(rate):
        return tokens * facts.job.sequence_length / (rate * facts.gpus)
    whole = facts.source.attention == "whole"
    flops = model_flops(facts.model, facts.job, facts.global_batch, full_attention=whole)
    return flops / (tflops * 1e12 * facts.gpus)


def stacked(parts: list[Lowered]) -> Lowered:
    """One Lowered of many models' rows."""
    sizes = [len(part.table_parameters) for part in parts]
    slots = [_slots(part) for part in parts]
    nothing = [Layer((), 0.0, np.zeros(n), np.zeros(n), np.zeros(n)) for n in sizes]
    layers = []
    for place in range(MOST_TYPES):
        chosen = [found[place] or none for found, none in zip(slots, nothing, strict=True)]
        layers.append(
            Layer(
                _stacked_works([layer.works for layer in chosen], sizes),
                _column([layer.count for layer in chosen], sizes),
                _column([layer.dense_parameters for layer in chosen], sizes),
                _column([layer.expert_parameters for layer in chosen], sizes),
                _column([layer.local_experts for layer in chosen], sizes),
            )
        )
    names = ("table_parameters", "stage_bytes", "tied", "mtp_layers", "trained", "imbalance")
    return Lowered(
        layers=tuple(layers),
        last=MOST_TYPES - 1,
        head=_stacked_works([part.head for part in parts], sizes),
        embedding=_stacked_works([part.embedding for part in parts], sizes),
        **{name: _column([getattr(part, name) for part in parts], sizes) for name in names},
    )


def _slots(lowered: Lowered) -> list[Layer | None]:
    """Layer types by place, the last layer's at the end."""
    last = lowered.last
    others = [layer for i, layer in enumerate(lowered.layers) if i != last]
    free = [None] * (MOST_TYPES - 1 - len(others))
    return [*free, *others, lowered.layers[last]]


def _stacked_works(parts: list[tuple[Work, ...]], sizes: list[int]) -> tuple[Work, ...]:
    names = list(dict.fromkeys(work.name for works in parts for work in works))
    found = []
    for name in names:
        known = [next((work for work in works if work.name == name), None) for works in parts]
        first = next(work for work in known if work)
        blank = Work(name, first.kind, 0.0, np.zeros(1))
        columns = {
            field.name: _column([getattr(work or blank, field.name) for work in known], sizes)
            for field in fields(Work)
            if field.name not in ("name", "kind", "module")
        }
        found.append(Work(name=name, kind=first.kind, module=first.module, **columns))
    return tuple(found)


def _column(values: list[object], sizes: list[int]) -> Floats:
    parts = [np.broadcast_to(np.asarray(v, float), n) for v, n in zip(values, sizes, strict=True)]
    return np.concatenate(parts)


def _taken(lowered: Lowered, chosen: Ints) -> Lowered:
    def work(one: Work) -> Work:
        names = [f.name for f in fields(Work) if f.name not in ("name", "kind", "module")]
        return replace(one, **{name: getattr(one, name)[chosen] for name in names})

    def layer(one: Layer) -> Layer:
        names = ("count", "dense_parameters", "expert_parameters", "local_experts")
        works = tuple(work(x) for x in one.works)
        return Layer(works, **{name: getattr(one, name)[chosen] for name in names})

    names = ("table_parameters", "stage_bytes", "tied", "mtp_layers", "trained", "imbalance")
    return replace(
        lowered,
        layers=tuple(layer(x) for x in lowered.layers),
        head=tuple(work(x) for x in lowered.head),
        embedding=tuple(work(x) for x in lowered.embedding),
        **{name: getattr(lowered, name)[chosen] for name in names},
    )


def _activations(facts: tuple[Facts, ...], rates: list[Rates]) -> Activations:
    """Of all rows, layer types by place. No fitted constant enters, so that any rates do."""
    found = [
        activations_of(x.model, x.layouts, rate, x.job)
        for x, rate in zip(facts, rates, strict=True)
    ]
    sizes = [len(x.layouts) for x in facts]

    def placed(name: str, place: int) -> Floats:
        values: list[object] = []
        for x, activations in zip(facts, found, strict=True):
            columns, names = getattr(activations, name), tuple(x.model.layer_types)
            last = names.index(x.model.layer_names[-1])
            others = [column for i, column in enumerate(columns) if i != last]
            order = [*([0.0] * (MOST_TYPES - 1 - len(others))), *others, columns[last]]
            values.append(order[place])
        return _column(values, sizes)

    return Activations(
        tuple(placed("kept", place) for place in range(MOST_TYPES)),
        tuple(placed("working", place) for place in range(MOST_TYPES)),
        _column([activations.logits for activations in found], sizes),
    )

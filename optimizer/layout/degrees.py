"""Degrees of parallelism: one choice (ParallelLayout), many as columns (Layouts), and their names.

A replica spans pp stages of `width` GPUs each; two grids cut the same width (see README,
"Degrees"):
    dense part:   tp x cp x dp    = width
    expert part:  etp x ep x edp  = width    (edp is 1 when serving; dense models have ep = etp = 1)
    GPUs used:    replicas x pp x width
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from optimizer.spec.frozen import Count, Frozen

Ints = NDArray[np.int64]


class ParallelLayout(Frozen):
    """One choice of degrees; every degree is an integer of at least 1."""

    pp: Count = 1
    vp: Count = 1
    ep: Count = 1
    etp: Count = 1
    edp: Count = 1
    tp: Count = 1
    cp: Count = 1
    dp: Count = 1
    replicas: Count = 1

    @property
    def width(self) -> int:
        """GPUs of one stage."""
        return self.tp * self.cp * self.dp

    @property
    def gpus_per_replica(self) -> int:
        return self.pp * self.width

    @property
    def gpus(self) -> int:
        return self.replicas * self.gpus_per_replica

    @property
    def name(self) -> str:
        """Every degree that is not 1, then the replicas: "EP64-ETP2-TP2-DP64", "TP2-x8"."""
        shown = [
            f"{field.upper()}{getattr(self, field)}"
            for field in ("pp", "vp", "ep", "etp", "edp", "tp", "cp", "dp")
            if getattr(self, field) > 1
        ] or ["TP1"]
        if self.replicas > 1:
            shown.append(f"x{self.replicas}")
        return "-".join(shown)

    def folded(self, has_experts: bool) -> ParallelLayout:
        """The same GPUs with replicas as data parallelism inside the stages, as training has it."""
        dp = self.dp * self.replicas
        routed = self.ep * self.etp
        edp = self.tp * self.cp * dp // routed if has_experts else 1
        return self.model_copy(update={"dp": dp, "edp": max(1, edp), "replicas": 1})

    def problems(self, has_experts: bool) -> list[str]:
        """Why the two grids do not cover the same GPUs; empty when they do, or there are no experts
        and the second grid is empty."""
        expert = self.etp * self.ep * self.edp
        if expert == (self.width if has_experts else 1):
            return []
        if not has_experts:
            return [
                f"ep x etp x edp = {self.ep} x {self.etp} x {self.edp}: the model has no experts"
            ]
        return [
            f"the expert grid etp x ep x edp = {self.etp} x {self.ep} x {self.edp} = {expert} "
            f"must cover the {self.width} GPUs of tp x cp x dp = {self.tp} x {self.cp} x {self.dp}"
        ]


@dataclass(frozen=True)
class Layouts:
    """Columns of n layouts; `span` is how many GPUs of a stage lie in one domain (all but the
    last), `leaf` how many such pieces under one leaf switch (0: as many as cost no stage)."""

    pp: Ints
    tp: Ints
    cp: Ints
    dp: Ints
    ep: Ints
    etp: Ints
    span: Ints
    leaf: Ints

    def __len__(self) -> int:
        return len(self.pp)

    @property
    def width(self) -> Ints:
        return self.tp * self.cp * self.dp

    @property
    def gpus_per_replica(self) -> Ints:
        return self.pp * self.width

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Layouts:
        return Layouts(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})

    def layout(self, row: int, replicas: int = 1) -> ParallelLayout:
        degrees = {name: int(getattr(self, name)[row]) for name in DEGREES}
        return ParallelLayout(**degrees, replicas=replicas)

    @classmethod
    def of(cls, layout: ParallelLayout, span: int) -> Self:
        """One layout as columns of length 1."""
        columns = {name: np.array([getattr(layout, name)]) for name in DEGREES}
        return cls(**columns, span=np.array([span]), leaf=np.array([0]))

    @classmethod
    def concatenate(cls, parts: list[Layouts]) -> Self:
        return cls(
            **{
                column.name: np.concatenate([getattr(part, column.name) for part in parts])
                for column in fields(cls)
            }
        )


DEGREES = ("pp", "tp", "cp", "dp", "ep", "etp")

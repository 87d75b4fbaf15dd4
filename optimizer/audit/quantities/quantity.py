"""A quantity: what a figure is of, and all that it can be derived to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from optimizer.audit.amounts import Dimension
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer
from optimizer.audit.own_figures import Told

SIZES = ("hidden_size", "vocab_size", "attention.*", "moe.*", "ffn.*", "precision*")
LOAD = ("batch", "seq_len", "output_len", "concurrency")
LINKS = ("gpus_per_node", "gpu.*", "intra_node.*", "inter_node.*")


class Quantity(NamedTuple):
    """`rests_on`: keys whose assumed values a derived value may rest on; `decisive`: keys without
    which a figure cannot be refuted."""

    dimension: Dimension
    derive: Callable[[Case, Claim, Mapping[str, Told]], Answer]
    components: tuple[str, ...] = ()
    example: str = ""
    rests_on: tuple[str, ...] = ()
    decisive: tuple[str, ...] = ()
    rests_by_component: Mapping[str, tuple[str, ...]] = {}

    def keys(self, component: str | None) -> tuple[str, ...]:
        """The keys that a component's value may rest on."""
        return self.rests_by_component.get(component or "", self.rests_on)

"""Expert slots: how many copies of each expert, on which GPUs, and a proof of how good that is."""

from optimizer.search.experts.bounds import Certificate
from optimizer.search.experts.place import place_experts
from optimizer.search.experts.placement import ExpertPlacement

__all__ = ["Certificate", "ExpertPlacement", "place_experts"]

"""Degrees of parallelism: columns of layouts, their names, and all that a cluster admits."""

from optimizer.layout.degrees import DEGREES, Ints, Layouts, ParallelLayout
from optimizer.layout.enumeration import Space, enumerate_layouts
from optimizer.layout.leaves import (
    boundary_leaf,
    leaf_gpus,
    leaf_offers,
    leaf_sizes,
    stages_under,
)
from optimizer.layout.names import Reading, read_strategy
from optimizer.layout.rules import divisibility_problems
from optimizer.layout.spanning import SpanningSpace, Split, left_out, spanning_spaces
from optimizer.layout.training import enumerate_training_layouts

__all__ = [
    "DEGREES",
    "Ints",
    "Layouts",
    "ParallelLayout",
    "Reading",
    "Space",
    "SpanningSpace",
    "Split",
    "boundary_leaf",
    "divisibility_problems",
    "enumerate_layouts",
    "enumerate_training_layouts",
    "leaf_gpus",
    "leaf_offers",
    "leaf_sizes",
    "left_out",
    "read_strategy",
    "spanning_spaces",
    "stages_under",
]

"""Model x layouts -> the operators that one rank runs."""

from optimizer.operators.lowering import BOUNDARY, EMBEDDING, HEAD, lower
from optimizer.operators.operator import COLLECTIVES, Columns, Family, Floats, Operator, Phase

__all__ = [
    "BOUNDARY",
    "COLLECTIVES",
    "EMBEDDING",
    "HEAD",
    "Columns",
    "Family",
    "Floats",
    "Operator",
    "Phase",
    "lower",
]

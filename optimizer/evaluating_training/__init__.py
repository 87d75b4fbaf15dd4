"""`optimize evaluate` for training rows: prices what ran, and fills what its row leaves blank."""

from optimizer.evaluating_training.blanks import Facts, read_row
from optimizer.evaluating_training.job import OUTPUTS, evaluate_training, is_training
from optimizer.evaluating_training.names import family_of

__all__ = ["OUTPUTS", "Facts", "evaluate_training", "family_of", "is_training", "read_row"]

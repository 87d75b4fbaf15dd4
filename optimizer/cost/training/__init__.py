"""Step time and memory of training: layouts as columns in, seconds and bytes by part out."""

from optimizer.cost.training.accounting import mfu, model_flops
from optimizer.cost.training.calibration import (
    Software,
    TrainingCalibration,
    load_training_calibration,
    rates_of,
)
from optimizer.cost.training.cuts import CutPieces, PricedCut, cut_pieces, price_cut
from optimizer.cost.training.layouts import MODULES, SCHEDULES, SHARDINGS, TrainingLayouts
from optimizer.cost.training.lowering import Job
from optimizer.cost.training.price import Priced, price, scan
from optimizer.cost.training.rates import Rates

__all__ = [
    "MODULES",
    "SCHEDULES",
    "SHARDINGS",
    "CutPieces",
    "Job",
    "Priced",
    "PricedCut",
    "Rates",
    "Software",
    "TrainingCalibration",
    "TrainingLayouts",
    "cut_pieces",
    "load_training_calibration",
    "mfu",
    "model_flops",
    "price",
    "price_cut",
    "rates_of",
    "scan",
]

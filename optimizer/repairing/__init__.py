"""Where there is no plan: the limits in conflict, and the cheapest changes, each a proven plan."""

from optimizer.repairing.job import Job
from optimizer.repairing.refusing import BeforeAfter, Refusal, Repair, refuse
from optimizer.repairing.remedies import Remedy, price_remedies
from optimizer.repairing.wording import refusal_files, refusal_json, render, render_remedies

__all__ = [
    "BeforeAfter",
    "Job",
    "Refusal",
    "Remedy",
    "Repair",
    "price_remedies",
    "refusal_files",
    "refusal_json",
    "refuse",
    "render",
    "render_remedies",
]

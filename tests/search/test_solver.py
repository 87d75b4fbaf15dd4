"""The one way that CP-SAT is set up."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from ortools.sat.python import cp_model

from optimizer.search.solver import new_solver


def test_ctrl_c_stops_a_run_that_is_in_the_solver() -> None:
    """The solver's own handler would end the search early and let the run go on."""
    model = cp_model.CpModel()
    holes = [[model.new_bool_var("") for _ in range(12)] for _ in range(13)]  # 13 pigeons: hard
    for pigeon in holes:
        model.add(cp_model.LinearExpr.sum(pigeon) == 1)
    for hole in zip(*holes, strict=True):
        model.add_at_most_one(hole)
    solver = new_solver()
    solver.parameters.linearization_level = 0
    solver.parameters.max_deterministic_time = 1.0
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            solver.solve(model)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)

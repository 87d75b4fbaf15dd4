"""The one way that CP-SAT is set up: one worker, a fixed seed, a deterministic limit."""

from __future__ import annotations

from ortools.sat.python import cp_model

DETERMINISTIC_LIMIT = 60.0


def new_solver() -> cp_model.CpSolver:
    """A solver that gives the same answer to the same model."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.cp_model_presolve = False  # one-hot rows leave nothing to simplify
    solver.parameters.cp_model_probing_level = 0
    solver.parameters.symmetry_level = 0
    solver.parameters.max_deterministic_time = DETERMINISTIC_LIMIT
    solver.parameters.catch_sigint_signal = False  # else Ctrl-C makes a plan of what it had so far
    return solver

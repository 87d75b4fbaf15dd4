"""CP-SAT chooses one usage vector for every role, all of them within the pools' room.

Variables: mode[d, m], demand d is served in mode m; x[r, v], role r is served by vector v;
y[t, c], domains of kind t that are cut in way c (only where room is no chain of sizes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ortools.sat.python import cp_model

from optimizer.search.fleet.near import MOVED, Moving, moved_terms
from optimizer.search.fleet.reach import (
    MONEY_STEPS,
    Ask,
    Chosen,
    Objective,
    cheapest,
    combinations_of,
    cost_of,
    served_steps,
    within_reach,
)
from optimizer.search.fleet.room import PoolRoom
from optimizer.search.fleet.vectors import Vector, layouts_of, served_by
from optimizer.search.solver import new_solver
from optimizer.spec.fleet import Mode, Role

ORDER = "canonical order"
CRITERIA: Mapping[Objective, tuple[str, ...]] = {
    "gpus": ("GPUs", "money", ORDER),
    "money": ("money", "GPUs", ORDER),
    "served": ("served", "GPUs", "money", ORDER),
}


class FleetChoice(NamedTuple):
    """chosen: for each demand (mode, vector of each role), or None where it is not served; value
    and bound of the deciding criterion on its integer grid."""

    chosen: Chosen
    criterion: str
    value: int
    bound: int
    status: Literal["OPTIMAL", "FEASIBLE"]
    scale: float  # integer value / scale: GPUs, money an hour, weighted requests a second
    combinations: float  # of vectors, all demands and modes


def choose_fleet(
    asks: Sequence[Ask],
    rooms: Sequence[PoolRoom],
    prices: Sequence[float],
    objective: Objective,
    besides: Sequence[Chosen] = (),
    ties: bool = True,
) -> FleetChoice | None:
    """The best choice for all demands at once, or None where they do not fit together: one that
    differs in some mode or layout from each of `besides`; without `ties` any of equally good ones.

    `served` may leave demands unserved or half served; the others serve every demand in full.
    """
    near = asks
    if objective != "served":
        few = [ask._replace(modes=cheapest(ask, prices, objective)) for ask in asks]
        found = _choose(few, rooms, prices, objective, CRITERIA[objective][:1], besides)
        if found is not None:
            near = within_reach(asks, prices, objective, found.value)
    criteria = CRITERIA[objective] if ties else CRITERIA[objective][:1]
    choice = _choose(near, rooms, prices, objective, criteria, besides)
    return choice and choice._replace(combinations=combinations_of(asks))


def choose_near(
    asks: Sequence[Ask],
    rooms: Sequence[PoolRoom],
    prices: Sequence[float],
    objective: Objective,
    most: int,
    moving: Moving,
) -> Chosen | None:
    """Of the choices whose deciding criterion is no more than `most` the one that loads least, by
    what its replicas keep of what runs."""
    near = asks if objective == "served" else within_reach(asks, prices, objective, most)
    criteria = (MOVED, *CRITERIA[objective])
    choice = _choose(near, rooms, prices, objective, criteria, (), moving, most)
    return choice and choice.chosen


def _choose(
    asks: Sequence[Ask],
    rooms: Sequence[PoolRoom],
    prices: Sequence[float],
    objective: Objective,
    criteria: Sequence[str],
    besides: Sequence[Chosen],
    moving: Moving | None = None,
    most: int = 0,
) -> FleetChoice | None:
    model = cp_model.CpModel()
    picked: dict[tuple[int, Mode, Role], list[cp_model.IntVar]] = {}
    modes: dict[tuple[int, Mode], cp_model.IntVar] = {}
    for index, ask in enumerate(asks):
        for mode, roles in ask.modes.items():
            modes[index, mode] = model.new_bool_var(f"mode {index} {mode}")
            for role, vectors in roles.items():
                own = [model.new_bool_var("x") for _ in vectors]
                picked[index, mode, role] = own
                model.add(sum(own) == modes[index, mode])
        own = [modes[index, mode] for mode in ask.modes]
        model.add(sum(own) <= 1 if objective == "served" else sum(own) == 1)
    uses = [
        (variable, vector)
        for (index, mode, role), own in picked.items()
        for variable, vector in zip(own, asks[index].modes[mode][role], strict=True)
    ]
    _limit_rooms(model, rooms, uses)
    for other in besides:
        _differ(model, asks, picked, other)
    terms = {
        "GPUs": [(x, cost_of(vector, prices, "gpus")) for x, vector in uses],
        "money": [(x, cost_of(vector, prices, "money")) for x, vector in uses],
        ORDER: [(x, order) for own in picked.values() for order, x in enumerate(own)],
    }
    if objective == "served":
        terms["served"] = _served(model, asks, picked)
    if moving is not None:
        terms[MOVED] = moved_terms(model, asks, picked, moving)
        decides = terms[CRITERIA[objective][0]]
        model.add(sum(weight * x for x, weight in decides) <= most)
    return _solved(model, asks, picked, terms, objective, criteria)


def _limit_rooms(
    model: cp_model.CpModel,
    rooms: Sequence[PoolRoom],
    uses: Sequence[tuple[cp_model.IntVar, Vector]],
) -> None:
    """All chosen pieces of a pool fit its domains at once."""
    for pool, room in enumerate(rooms):
        here = [(x, use.room) for x, vector in uses for use in vector if use.offer.pool == pool]
        if not here:
            continue
        chosen = [x for x, _ in here]
        taken = [
            cp_model.LinearExpr.weighted_sum(chosen, [row[size] for _, row in here])
            for size in range(len(room.limits))
        ]
        if not room.cuts:
            for need, (_, held) in zip(taken, room.limits, strict=True):
                model.add(need <= held)
            continue
        cut = [
            (many, ways, [model.new_int_var(0, many, "y") for _ in ways])
            for (_, many), ways in zip(room.domains, room.cuts, strict=True)
        ]
        for many, _, counts in cut:
            model.add(sum(counts) <= many)
        for size, need in enumerate(taken):
            counts = [count for _, _, own in cut for count in own]
            each = [way[size] for _, ways, _ in cut for way in ways]
            model.add(need <= cp_model.LinearExpr.weighted_sum(counts, each))


def _differ(
    model: cp_model.CpModel,
    asks: Sequence[Ask],
    picked: Mapping[tuple[int, Mode, Role], Sequence[cp_model.IntVar]],
    other: Chosen,
) -> None:
    """Not every role by the layouts that another choice serves it by, in whatever numbers."""
    alike: list[cp_model.IntVar] = []
    many = 0
    for index, answer in enumerate(other):
        for role, known in answer[1].items() if answer is not None else ():
            assert answer is not None
            own = picked.get((index, answer[0], role), ())
            vectors = asks[index].modes[answer[0]][role] if own else ()
            many += 1
            alike += [
                x
                for x, vector in zip(own, vectors, strict=True)
                if layouts_of(vector) == layouts_of(known)
            ]
    model.add(cp_model.LinearExpr.sum(alike) <= many - 1)


def _served(
    model: cp_model.CpModel,
    asks: Sequence[Ask],
    picked: Mapping[tuple[int, Mode, Role], Sequence[cp_model.IntVar]],
) -> list[tuple[cp_model.IntVar, int]]:
    """The weighted rate that is served, negated: of each mode what its scarcest role serves."""
    steps = served_steps(asks)
    found = []
    for index, ask in enumerate(asks):
        per_s = steps * ask.weight
        wanted = round(per_s * ask.wanted_per_s)
        for mode, roles in ask.modes.items():
            rate = model.new_int_var(0, wanted, f"served {index} {mode}")
            for role, vectors in roles.items():
                rates = [min(wanted, round(per_s * served_by(vector))) for vector in vectors]
                own = list(picked[index, mode, role])
                model.add(rate <= cp_model.LinearExpr.weighted_sum(own, rates))
            found.append((rate, -1))
    return found


def _solved(
    model: cp_model.CpModel,
    asks: Sequence[Ask],
    picked: Mapping[tuple[int, Mode, Role], Sequence[cp_model.IntVar]],
    terms: Mapping[str, Sequence[tuple[cp_model.IntVar, int]]],
    objective: Objective,
    criteria: Sequence[str],
) -> FleetChoice | None:
    """Lexicographic optimum: the first criterion decides, ties go down the list."""
    first: tuple[int, int, Literal["OPTIMAL", "FEASIBLE"]] | None = None
    values: dict[int, int] = {}
    for name in criteria:
        variables, weights = [x for x, _ in terms[name]], [weight for _, weight in terms[name]]
        total = cp_model.LinearExpr.weighted_sum(variables, weights)
        model.minimize(total)
        model.clear_hints()  # type: ignore[no-untyped-call]  # ortools gives it no types
        for variable in {x.index: x for own in picked.values() for x in own}.values():
            if values:
                model.add_hint(variable, values[variable.index])
        solver = new_solver()
        found = solver.solve(model)
        if found not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            break
        best, bound = round(solver.objective_value), round(solver.best_objective_bound)
        values = {x.index: solver.value(x) for own in picked.values() for x in own}
        if first is None:
            first = best, bound, "OPTIMAL" if found == cp_model.OPTIMAL else "FEASIBLE"
        model.add(total <= best)
    if first is None:
        return None
    chosen: list[tuple[Mode, Mapping[Role, Vector]] | None] = []
    for index, ask in enumerate(asks):
        answer = None
        for mode, roles in ask.modes.items():
            taken = {
                role: vector
                for role, vectors in roles.items()
                for x, vector in zip(picked[index, mode, role], vectors, strict=True)
                if values[x.index]
            }
            if taken:
                answer = mode, taken
        chosen.append(answer)
    value, bound, status = first
    name = CRITERIA[objective][0]
    scale = {"GPUs": 1.0, "money": float(MONEY_STEPS), "served": served_steps(asks)}[name]
    return FleetChoice(tuple(chosen), name, value, bound, status, scale, combinations_of(asks))

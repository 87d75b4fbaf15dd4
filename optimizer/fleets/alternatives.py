"""Why the others lost: what the other mode of each demand, and one pool less, would cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import TYPE_CHECKING, NamedTuple

from optimizer.search.fleet import Ask, FleetChoice, Objective, Vector, choose_fleet
from optimizer.search.fleet.reach import MONEY_STEPS, cost_of, within_reach
from optimizer.spec.fleet import Fleet, Mode, Role

if TYPE_CHECKING:
    from optimizer.fleets.planning import Asked

CALLED: Mapping[Mode, str] = {
    "aggregated": "prefill and decode together",
    "disaggregated": "prefill and decode apart",
}


class _Tie(NamedTuple):
    """What decides between equals."""

    objective: Objective
    scale: int
    unit: str


LITTLE = (
    1.05  # times the best one's GPUs or money: most alternatives cost no more, and few vectors do
)
TIES = (_Tie("gpus", 1, "GPUs"), _Tie("money", MONEY_STEPS, "an hour"))


def alternatives(fleet: Fleet, asked: Asked, best: FleetChoice) -> list[str]:
    """A line each: the best fleet with one demand in its other mode, and without a pool that the
    best one uses; all else is chosen anew, and proven as the best fleet is."""
    lines, near = [], _near(fleet, asked, best)
    for index, (ask, answer) in enumerate(zip(asked.asks, best.chosen, strict=True)):
        for mode in ask.modes:
            if answer is not None and mode != answer[0]:
                forced = (_in_mode(asks, index, mode) for asks in (near, asked.asks))
                other = _chosen(fleet, asked, forced, best)
                lines.append(
                    f"{ask.name} with {CALLED[mode]}: {_against(fleet, asked, other, best)}"
                )
    for pool in _pools(best) if len(asked.rooms) > 1 else ():
        fewer = ([_without(ask, pool) for ask in asks] for asks in (near, asked.asks))
        other = _chosen(fleet, asked, fewer, best)
        name = fleet.cluster.pools[pool].name
        lines.append(f"without {name}: {_against(fleet, asked, other, best)}")
    return lines


def _near(fleet: Fleet, asked: Asked, best: FleetChoice) -> Sequence[Ask]:
    """The asks with just those vectors that a choice little worse than the best one can hold."""
    if fleet.objective == "served":
        return ()
    return within_reach(asked.asks, asked.prices, fleet.objective, floor(best.value * LITTLE))


def _in_mode(asks: Sequence[Ask], index: int, mode: Mode) -> list[Ask]:
    """The asks with one demand in one mode."""
    return [
        ask._replace(modes={mode: ask.modes.get(mode, {})}) if place == index else ask
        for place, ask in enumerate(asks)
    ]


def _chosen(
    fleet: Fleet, asked: Asked, tries: Iterable[Sequence[Ask]], best: FleetChoice
) -> FleetChoice | None:
    """The best choice for the last of some asks; for the first if it is little worse than the best.
    Ties are only settled where it is as good."""
    found = None
    for asks in tries:
        able = all(any(map(_able, ask.modes.values())) for ask in asks)
        if not asks or not (able or fleet.objective == "served"):
            continue
        given = (asks, asked.rooms, asked.prices, fleet.objective)
        found = choose_fleet(*given, ties=False)
        if found is not None and found.value == best.value:
            return choose_fleet(*given)
        if found is not None and found.value <= best.value * LITTLE:
            return found
    return found


def _able(roles: Mapping[Role, Sequence[Vector]]) -> bool:
    return bool(roles) and all(roles.values())


def _without(ask: Ask, pool: int) -> Ask:
    """The ask by ways that leave a pool alone."""
    modes = {
        mode: {
            role: [way for way in ways if all(use.offer.pool != pool for use in way)]
            for role, ways in roles.items()
        }
        for mode, roles in ask.modes.items()
    }
    return ask._replace(modes=modes)


def _pools(choice: FleetChoice) -> list[int]:
    """The pools that a choice uses."""
    return sorted({use.offer.pool for way in _ways(choice) for use in way})


def _ways(choice: FleetChoice) -> list[Vector]:
    return [way for answer in choice.chosen if answer is not None for way in answer[1].values()]


def _against(fleet: Fleet, asked: Asked, other: FleetChoice | None, best: FleetChoice) -> str:
    """Another choice's objective beside the best one's; of equals the GPUs or money that decided
    between them."""
    if other is None:
        return "the demands do not fit the cluster"
    objective = fleet.objective
    if other.value != best.value:
        return f"{_shown(other, objective)} against {_shown(best, objective)}"
    for tie in TIES:
        one, two = (
            sum(cost_of(way, asked.prices, tie.objective) for way in _ways(choice)) / tie.scale
            for choice in (other, best)
        )
        if one != two:
            return f"{_shown(other, objective)} too, {one:,.10g} {tie.unit} against {two:,.10g}"
    return f"{_shown(other, objective)} too"


def _shown(choice: FleetChoice, objective: Objective) -> str:
    value = abs(choice.value) / choice.scale
    return {
        "gpus": f"{value:,.0f} GPUs",
        "money": f"{value:,.2f} an hour",
        "served": f"{value:,.4g} requests/s by weight",
    }[objective]

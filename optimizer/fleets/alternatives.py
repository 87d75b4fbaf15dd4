"""Why the others lost: what the other mode of each demand, and one pool less, would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from optimizer.search.fleet import Ask, FleetChoice, Objective, Vector, choose_fleet
from optimizer.search.fleet.reach import MONEY_STEPS, cost_of
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


TIES = (_Tie("gpus", 1, "GPUs"), _Tie("money", MONEY_STEPS, "an hour"))


def alternatives(fleet: Fleet, asked: Asked, best: FleetChoice) -> list[str]:
    """A line each: the best fleet with one demand in its other mode, and without a pool that the
    best one uses; all else is chosen anew, and proven as the best fleet is."""
    lines = []
    for index, (ask, answer) in enumerate(zip(asked.asks, best.chosen, strict=True)):
        for mode, roles in ask.modes.items():
            if answer is not None and mode != answer[0]:
                asks = [*asked.asks]
                asks[index] = ask._replace(modes={mode: roles})
                other = _chosen(fleet, asked, asks, best)
                lines.append(
                    f"{ask.name} with {CALLED[mode]}: {_against(fleet, asked, other, best)}"
                )
    for pool in _pools(best) if len(asked.rooms) > 1 else ():
        other = _chosen(fleet, asked, [_without(ask, pool) for ask in asked.asks], best)
        name = fleet.cluster.pools[pool].name
        lines.append(f"without {name}: {_against(fleet, asked, other, best)}")
    return lines


def _chosen(
    fleet: Fleet, asked: Asked, asks: Sequence[Ask], best: FleetChoice
) -> FleetChoice | None:
    """The best choice for these asks; ties are only settled where it is as good as the best."""
    if fleet.objective != "served" and not all(any(map(_able, ask.modes.values())) for ask in asks):
        return None
    given = (asks, asked.rooms, asked.prices, fleet.objective)
    found = choose_fleet(*given, ties=False)
    return choose_fleet(*given) if found is not None and found.value == best.value else found


def _able(roles: Mapping[Role, Sequence[Vector]]) -> bool:
    return all(roles.values())


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

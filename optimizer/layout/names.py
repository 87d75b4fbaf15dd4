"""Names of layouts, the canonical one and other people's: "EP64-ETP2-TP2-DP64", "EP64_TP2_PP1"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from optimizer.errors import Problem, SpecError
from optimizer.layout.degrees import ParallelLayout

_DEGREE = re.compile(r"(?P<name>ETP|EDP|TP|PP|VP|EP|CP|DP|X)(?P<value>[0-9]{1,9})", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """One way to understand a strategy's name."""

    rule: str
    layout: ParallelLayout


def degrees_of(text: str) -> dict[str, int]:
    """The degrees that a name spells, in any order and with any of "-_+x, " between them."""
    found: dict[str, int] = {}
    for part in re.split(r"[-_+,;/\s]+", text.strip()):
        match = _DEGREE.fullmatch(part.replace("=", ""))
        if match is None or not int(match["value"]):
            raise SpecError(
                Problem(f"'{part[:40]}' in strategy '{text[:80]}' is no degree; write EP8-TP2-DP4")
            )
        name = {"x": "replicas"}.get(match["name"].lower(), match["name"].lower())
        if name in found:
            raise SpecError(Problem(f"strategy '{text[:80]}' names {name.upper()} twice"))
        found[name] = int(match["value"])
    return found


def read_strategy(
    text: str, num_gpus: int, has_experts: bool, trains: bool = False
) -> tuple[Reading, ...]:
    """The readings of a strategy's name, the one that holds first.

    A canonical name ("EP64-ETP2-TP2-DP64": dashes, and grids that cover each other) means itself.
    Other people's names are read by two rules in turn: (1) width = EP x TP, etp = tp, DP counts
    replicas; (2) width = max(EP, TP) shared by both grids, DP counts replicas; of training also (3)
    width = TP x CP x DP, in which EP is folded. The first that uses exactly `num_gpus` holds, else
    the first is judged; "canonical:" or "legacy:" forces one.
    """
    forced, colon, body = text.strip().rpartition(":")
    if colon and forced not in ("canonical", "legacy"):
        raise SpecError(
            Problem(f"'{forced[:40]}:' before a strategy must be canonical: or legacy:")
        )
    degrees = degrees_of(body)
    canonical = ParallelLayout(**degrees)
    problems = canonical.problems(has_experts)
    legacy = [] if forced == "canonical" else list(_legacy_readings(degrees, has_experts))
    if trains and has_experts and forced != "canonical":
        legacy += _folded_readings(degrees, num_gpus)
    own = [] if problems or forced == "legacy" else [Reading("canonical", canonical)]
    if not own and not legacy:
        raise SpecError(Problem(f"strategy '{body[:80]}': {problems[0]}"))
    is_canonical = not re.search(r"[_+,;/\s]", body) or forced == "canonical"
    found = [*own, *legacy] if is_canonical else [*legacy, *own]
    if not (own and is_canonical):
        found.sort(key=lambda reading: reading.layout.gpus != num_gpus)  # stable: rule (1) first
    others = {reading.layout: reading for reading in reversed(found[1:])}
    others.pop(found[0].layout, None)
    return (found[0], *reversed(others.values()))


def _legacy_readings(degrees: dict[str, int], has_experts: bool) -> Iterator[Reading]:
    if {"etp", "edp", "replicas"} & set(degrees):
        return
    ep, tp = degrees.get("ep", 1), degrees.get("tp", 1)
    pp, cp, replicas = degrees.get("pp", 1), degrees.get("cp", 1), degrees.get("dp", 1)
    rest = {"pp": pp, "cp": cp, "vp": degrees.get("vp", 1), "replicas": replicas}
    if not has_experts:
        if ep == 1:
            yield Reading("DP counts replicas", ParallelLayout(tp=tp, **rest))
        return
    yield Reading(
        "width = EP x TP, etp = tp, DP counts replicas",
        ParallelLayout(tp=tp, dp=ep, ep=ep, etp=tp * cp, **rest),
    )
    width = max(ep, tp)
    if width % ep == 0 and width % tp == 0:
        yield Reading(
            "width = max(EP, TP) shared by both grids, DP counts replicas",
            ParallelLayout(tp=tp, dp=width // tp, ep=ep, etp=width // ep * cp, **rest),
        )


def _folded_readings(degrees: dict[str, int], num_gpus: int) -> Iterator[Reading]:
    """Megatron-LM's words: DP is what TP, CP and PP leave of the GPUs, EP a part of the width."""
    if {"etp", "edp", "replicas"} & set(degrees):
        return
    stated = {name: degrees.get(name, 1) for name in ("tp", "cp", "pp", "vp", "ep")}
    dense = stated["tp"] * stated["cp"]
    dp = degrees.get("dp", num_gpus // (dense * stated["pp"]))
    if dp and dense * dp % stated["ep"] == 0:
        layout = ParallelLayout(**stated, dp=dp, edp=dense * dp // stated["ep"])
        yield Reading("width = TP x CP x DP, EP folded in it", layout)

"""Megatron's ways to say which layers a pipeline stage holds."""

from __future__ import annotations

import re

from optimizer.audit.launch.command import Command
from optimizer.audit.launch.flags import Settings
from optimizer.audit.launch.launch import Rule
from optimizer.errors import SpecError
from optimizer.spec.model import ModelSpec


def cut_of(
    command: Command, settings: Settings, model: ModelSpec, pp: int
) -> tuple[int, tuple[int, ...] | None, list[Rule]]:
    """(virtual stages a rank, layers of each stage where named, the rules broken)."""
    layers, layout = model.num_layers, settings.text("pipeline_layout")
    if layout is not None:
        return _layout_cut(command, layout, layers, pp)
    ends = [settings.values.get(key) for key in ("first_stage_layers", "last_stage_layers")]
    given = [end for end in ends if end is not None]
    middle, inner = layers - sum(given), pp - len(given)
    flag = f"--pipeline-model-parallel-size {pp}"
    if inner < 0 or (inner == 0 and middle) or (inner and (middle < inner or middle % inner)):
        what = f"{middle} layers on {max(inner, 0)} {'middle ' if given else ''}stages"
        return 1, None, [Rule("refused", flag, f"{what} must come out even")]
    stage = middle // inner if inner else 0
    sizes: tuple[int, ...] | None = None
    if given:
        sizes = (ends[0] or stage, *(stage,) * (pp - 2), ends[1] or stage)
    vp = settings.count("virtual_stages")
    each = settings.values.get("virtual_layers")
    if each is not None:
        vp = max(1, stage // each)
    if stage and (stage % vp or (each is not None and vp * each != stage)):
        text = f"{stage} layers of a stage do not come out even"
        flag = f"--num-layers-per-virtual-pipeline-stage {each}" if each else f"VP {vp}"
        return 1, sizes, [Rule("refused", flag, text)]
    return vp, sizes, []


def _layout_cut(
    command: Command, text: str, layers: int, pp: int
) -> tuple[int, tuple[int, ...] | None, list[Rule]]:
    """ "Ett|tt|ttL": E embeds, t is a layer, m a multi-token-prediction layer, L the head; "t*3|"
    and "(tt|)*2" repeat."""
    flag = "--pipeline-model-parallel-layout"
    spelled = re.sub(
        r"\(([^()]*)\)\*([0-9]{1,3})", lambda match: match[1] * int(match[2]), text.replace(" ", "")
    )
    spelled = re.sub(r"([EtmL|])\*([0-9]{1,3})", lambda match: match[1] * int(match[2]), spelled)
    spelled = spelled.replace(",", "")
    if not re.fullmatch(r"[EtmL|]+", spelled):
        message = f"'{flag} {text[:60]}' must be made of E, t, m, L and |, \"Ett|tt|ttL\""
        raise SpecError(command.problem(message))
    pieces = spelled.split("|")
    counts = [piece.count("t") for piece in pieces]
    rules = []
    if len(pieces) % pp:
        said = f"{len(pieces)} pieces % PP {pp} = {len(pieces) % pp}, must be 0"
        rules.append(Rule("refused", f"{flag} {text}", said))
    if sum(counts) != layers:
        said = f"has {sum(counts)} layers, the model {layers}"
        rules.append(Rule("refused", f"{flag} {text}", said))
    if not pieces[0].startswith("E") or not pieces[-1].endswith("L"):
        rules.append(Rule("refused", f"{flag} {text}", "must begin with E and end with L"))
    if rules:
        return 1, None, rules
    sizes = tuple(sum(counts[stage::pp]) for stage in range(pp))
    return len(pieces) // pp, sizes, []

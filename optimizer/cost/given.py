"""Layouts priced as they ran: what fits beside the weights, the steps, and the steady state."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.calibration import Calibration, Constants, EngineMemory
from optimizer.cost.correcting import corrected, factors, load_of, series_of
from optimizer.cost.demand import Device
from optimizer.cost.memory import layout_bytes, mean_cache_bytes
from optimizer.cost.price import step_seconds
from optimizer.cost.pricers import asks
from optimizer.cost.serving import Prefill, ServingTimes, decode_cycle, serving_times
from optimizer.cost.silicon import with_tables
from optimizer.cost.silicon.grids import LABELS
from optimizer.cost.stages import stage_total
from optimizer.operators import BOUNDARY, Columns, Floats, lower
from optimizer.spec.model import ModelSpec

CHUNK = 8192  # prefill tokens of one step, the engines' usual --max-num-batched-tokens


class Given(NamedTuple):
    """Runs of one model on one device under one engine; columns tp, dp, ep, etp, span of the
    layouts, input_len, output_len, concurrency (of one replica), all float64 [n]."""

    model: ModelSpec
    device: Device
    engine: str
    columns: Columns


class Residence(NamedTuple):
    """What the fullest GPU holds, and how many requests that serves [n]."""

    weight_bytes: Floats
    reserve_bytes: Floats  # activations, sampler, context, communication
    sequence_bytes: Floats  # cache of one request in the middle of its answer
    resident: Floats  # whole requests that a replica has room for at the engine's default share
    running: Floats  # requests of a rank that decode at once, the share tuned; 1 at least
    feasible: NDArray[np.bool_]  # where weights, the least reserve and one whole request fit


def residence(given: Given, memory: EngineMemory) -> Residence:
    """Cache = usable x utilisation - weights - reserve, as vLLM reports it.

    The reserve is vLLM's: context, communication, and the sampler's warm-up over a full batch of
    logits, which is larger than any layer's activations. Who runs near the limit raises the share:
    tuned_share of what is left beside the least reserve serves in any case.
    """
    columns, gpu = given.columns, given.device.gpu
    tp, ones = columns["tp"], np.ones_like(columns["tp"])
    held = layout_bytes(given.model, {**columns, "cp": ones, "pp": ones}, 1)
    layers = {name: layer.dense + layer.experts for name, layer in held.layers.items()}
    weights: Floats = stage_total(given.model, layers, held.first, held.last)
    logits = memory.sampler_sequences * given.model.vocab_size
    reserve = memory.context_bytes + np.where(tp > 1, memory.communication_bytes, 0.0)
    reserve = reserve + memory.sampler_bytes_per_logit * logits
    usable = memory.usable * gpu.memory_bytes
    room = usable * memory.utilisation - weights - reserve
    most = usable - weights - memory.least_reserve_bytes
    middle = columns["input_len"] + columns["output_len"] / 2
    a_sequence = mean_cache_bytes(given.model, middle, tp)
    whole = mean_cache_bytes(given.model, columns["input_len"] + columns["output_len"], tp)
    return Residence(
        weights,
        reserve,
        a_sequence,
        np.maximum(room, 0.0) / whole * columns["dp"],
        np.maximum(np.maximum(room, memory.tuned_share * most) / a_sequence, 1.0),
        most >= whole,
    )


def running_and_waiting(given: Given, room: Floats) -> tuple[Floats, Floats]:
    """(requests of a rank that decode at once, those that queue for the cache in turns of it)."""
    wanted = np.maximum(given.columns["concurrency"] / given.columns["dp"], 1.0)
    return np.minimum(wanted, room), np.maximum(wanted / room - 1.0, 0.0)


def steps(given: Given, running: Floats) -> dict[str, Columns]:
    """The columns of a prefill step of one request and of a decode step."""
    columns, ones = given.columns, np.ones_like(running)
    length = columns["input_len"]
    inside = np.minimum(columns["tp"], columns["span"])
    alone = {
        "tp_inside": inside,
        "cp": ones,
        "cp_inside": ones,
        "pp_inside": ones,
        "imbalance": ones,
    }
    one_switch = dict.fromkeys(
        ("leaf", "tp_leaf", "cp_leaf", "pp_leaf"), np.full_like(ones, np.inf)
    )
    shared = {**columns, **alone, **one_switch}
    chunk = {"tokens": length / chunks(given), "context": (length + 1) / 2}
    batch = {"tokens": running, "context": length + columns["output_len"] / 2}
    return {
        "prefill": {**shared, **chunk, "sequences": ones, "logits": ones},
        "decode": {**shared, **batch, "sequences": running, "logits": running},
    }


def chunks(given: Given) -> Floats:
    """Steps that one prompt takes."""
    found: Floats = np.ceil(given.columns["input_len"] / CHUNK)
    return found


def steady_state(
    given_columns: Columns,
    steps_of_prompt: Floats,
    running: Floats,
    waiting: Floats,
    prefill_s: Floats,
    decode_s: Floats,
    constants: Constants,
) -> ServingTimes:
    """TTFT and TPOT from the seconds of the two steps; one stage."""
    alone = steps_of_prompt * prefill_s
    dp, tp = given_columns["dp"], given_columns["tp"]
    cycle = decode_cycle(decode_s, running, dp, tp, constants)
    output_len = given_columns["output_len"]
    alone_s = Prefill(alone, alone)
    return serving_times(cycle, alone_s, running, waiting, output_len, constants, ranks=dp)


def equipped(given: Given, calibration: Calibration) -> Given:
    """The same runs on a device with the tables that the calibration goes with."""
    device = with_tables(given.device, given.engine, calibration.tables, calibration.timed)
    return given._replace(device=device)


def price_given(given: Given, held: Residence, calibration: Calibration) -> ServingTimes:
    """TTFT, TPOT and request seconds of every run [n]."""
    given = equipped(given, calibration)
    running, waiting = running_and_waiting(given, held.running)
    constants = calibration.constants_of(given.engine, given.device.gpu.generation)
    families, pp = lower(given.model, given.engine), np.ones(len(running), dtype=np.int64)
    seconds = {
        phase: step_seconds(given.model, families, columns, pp, given.device, constants).total_s
        for phase, columns in steps(given, running).items()
    }
    times = steady_state(
        given.columns,
        chunks(given),
        running,
        waiting,
        seconds["prefill"],
        seconds["decode"],
        constants,
    )
    series = series_of(given.model, given.device.gpu, given.engine)
    drawn = factors(calibration.corrections, series, load_of(given.columns))
    return corrected(times, drawn, given.columns["output_len"])


def decode_sources(given: Given, held: Residence, calibration: Calibration) -> dict[str, Floats]:
    """Shares [n] of the operators' seconds of a decode step by where they come from: LABELS of
    silicon.grids; the rest comes from the roofline."""
    given = equipped(given, calibration)
    running, _ = running_and_waiting(given, held.running)
    columns = steps(given, running)["decode"]
    constants = calibration.constants_of(given.engine, given.device.gpu.generation)
    names, total = given.model.layer_names, np.zeros(len(running))
    found = {label: np.zeros(len(running)) for label in LABELS}
    for family in lower(given.model, given.engine):
        times = names.count(family.part) if family.part in given.model.layer_types else 1
        for operator in family.build({name: columns[name] for name in family.depends}):
            for ask in asks(operator, given.device) if family.part != BOUNDARY else ():
                seconds = times * ask.seconds(constants)
                total = total + seconds
                for index, label in enumerate(LABELS if ask.pricer == "measured" else ()):
                    found[label] += np.where(ask.demand.label == index, seconds, 0.0)
    return {label: seconds / total for label, seconds in found.items()}

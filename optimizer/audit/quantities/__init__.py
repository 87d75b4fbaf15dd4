"""What may be claimed: one line a quantity; a new one is one function and one line."""

from __future__ import annotations

from optimizer.audit.claim import PER_GPU
from optimizer.audit.quantities import (
    balance,
    counts,
    effects,
    graph,
    memory,
    own,
    peak,
    rates,
    statements,
    steps,
    work,
)
from optimizer.audit.quantities.graph import DAG_NEEDS
from optimizer.audit.quantities.quantity import LINKS, LOAD, SIZES, Quantity

_TIMES = (*SIZES, *LOAD, *LINKS, "software")
_HELD = (*SIZES, *LOAD)
_DECISIVE = ("hidden_size", "moe.intermediate_size", "ffn.intermediate_size", "seq_len")
_WORK = ("attention.*", "moe.*", "hidden_size")

QUANTITIES: dict[str, Quantity] = {
    "gpus": Quantity("count", counts.gpus, ("", "needed", "available"), "GPUs"),
    "experts_per_gpu": Quantity("count", counts.experts_per_gpu, example="experts"),
    "modules": Quantity("count", counts.modules, counts.MODULES, "modules"),
    "modules_per_gpu": Quantity("count", counts.modules_per_gpu, example="modules"),
    "gpus_per_module": Quantity("count", counts.gpus_per_module, counts.MODULES[:3], "GPUs"),
    "sequential_layers": Quantity("count", counts.sequential_layers, example="layers"),
    "memory_per_gpu": Quantity(
        "bytes",
        memory.memory_per_gpu,
        ("", *memory.COMPONENTS),
        "MB",
        _HELD,
        _DECISIVE,
        memory.RESTS_ON,
    ),
    "share_of_capacity": Quantity(
        "fraction", memory.share_of_capacity, example="%", rests_on=_HELD, decisive=_DECISIVE
    ),
    "flops_per_token": Quantity("FLOP", work.flops_per_token, ("", *work.PARTS), "MFLOP", _WORK),
    "compute_rate": Quantity("FLOP/s", rates.compute_rate, ("", *work.PARTS), "TFLOP/s", _TIMES),
    "utilisation": Quantity("fraction", rates.utilisation, ("", *work.PARTS), "%", _TIMES),
    "peak_rate": Quantity("FLOP/s", peak.peak_rate, example="TFLOP/s"),
    "throughput": Quantity("tokens/s", rates.throughput, ("", PER_GPU), "tokens/s", _TIMES),
    "latency": Quantity("seconds", rates.latency, example="ms", rests_on=_TIMES),
    "step_time": Quantity("seconds", steps.step_time, example="s", rests_on=_TIMES),
    "mfu": Quantity("fraction", steps.mfu, example="%", rests_on=_TIMES),
    "bubble": Quantity("fraction", steps.bubble_share, example="%"),
    "speedup": Quantity("fraction", rates.speedup, ("throughput", "latency"), "x", _TIMES),
    "variance": Quantity("fraction", balance.variance, balance.COMPONENTS, "%"),
    "effect": Quantity("fraction", effects.effect, effects.COMPONENTS, "%", _HELD),
    "sum": Quantity("count", own.sum_of_terms, example="modules"),
    "product": Quantity("count", own.product_of_terms, example="GPUs"),
    "ratio": Quantity("fraction", own.ratio_of_terms, example="%"),
    "excess": Quantity("bytes", own.excess_of_terms, example="GB"),
    "shortfall": Quantity("fraction", own.shortfall_of_terms, example="%"),
    "acyclic": Quantity("statement", graph.acyclic),
    "dag_information": Quantity("statement", graph.dag_information, tuple(DAG_NEEDS)),
    "artefact": Quantity("statement", statements.artefact),
    "mapping": Quantity("statement", statements.mapping),
    "fits": Quantity("statement", statements.fits, rests_on=_HELD),
    "readiness": Quantity("statement", statements.ready, rests_on=_HELD),
    "optimal": Quantity("statement", statements.optimal, rests_on=_TIMES),
}

__all__ = ["QUANTITIES", "Quantity"]

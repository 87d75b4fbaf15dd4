"""The options that name a job, and the job that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ENGINES = ("any", "vllm", "sglang", "trtllm", "megatron")
OBJECTIVES = ("throughput", "latency", "gpus", "balanced")

WITHIN = click.option(
    "--within",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="Share of the objective that staying close to --current may cost.",
)

WORKLOAD_FLAGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--batch", {"type": int, "help": "Sequences of one forward pass."}),
    ("--seq-len", {"type": int, "help": "Tokens of each of them."}),
    ("--input-len", {"type": int, "help": "Input tokens of a request [1024]."}),
    ("--output-len", {"type": int, "help": "Output tokens of a request [1024]."}),
    ("--prefix-len", {"type": int, "help": "Input tokens found in the cache."}),
    (
        "--concurrency",
        {"type": int, "help": "Requests in flight, of the whole deployment [searched]."},
    ),
    ("--request-rate", {"help": 'Requests that arrive, "20 req/s".'}),
    ("--ttft", {"help": 'Limit on the mean time to first token, "2s" or "2s p90".'}),
    ("--tpot", {"help": 'Limit on the mean time per output token, "50ms p99".'}),
    ("--latency", {"help": 'Limit on one forward pass, "200ms".'}),
    (
        "--expert-loads",
        {
            "metavar": "FILE",
            "help": "How often experts are picked: CSV (a row a layer), .npy, JSON.",
        },
    ),
    ("--expert-skew", {"type": float, "help": "The same as Zipf's exponent, 0 is even."}),
    ("--redundant-experts", {"type": int, "help": "Slots of a layer beyond one an expert [0]."}),
    ("--global-batch", {"type": int, "help": "Sequences of one training step."}),
    ("--sequence-length", {"type": int, "help": "Tokens of each of them."}),
    ("--micro-batch", {"type": int, "help": "Sequences of a micro-batch [searched]."}),
    ("--step-time", {"help": 'Limit on one training step, "20s".'}),
    (
        "--engine",
        {"type": click.Choice(ENGINES), "help": "Whose rules hold; any: no engine's own [any]."},
    ),
)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a job: cluster, model, workload."""
    for flag, settings in reversed(WORKLOAD_FLAGS):
        command = click.option(flag, **settings)(command)
    for option in (
        click.option(
            "--workload", metavar="FILE", help="A workload file or preset; flags win over it."
        ),
        click.option(
            "--gpus", type=int, help="How many, in place of the file's; a preset alone is one node."
        ),
        click.option("--model", metavar="FILE", help="A YAML, a config.json, a preset or a plan."),
        click.option("--hardware", metavar="FILE", help="A YAML, a preset or a plan."),
    ):
        command = option(command)
    return command


def calibration_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which constants price."""
    text = "Constants that price: a preset, or a file of `optimize calibrate` [default]."
    tables = "Price operators by what was timed: --calibration silicon (extra [silicon])."
    option = click.option("--calibration", metavar="FILE", help=text)
    flag = click.option("--silicon", is_flag=True, help=tables)
    own = "And by what you timed: a table of benchmarks/measure_operators.py."
    timed = click.option("--timed", metavar="FILE", help=own)
    decorated: Callable[..., Any] = option(flag(timed(command)))
    return decorated


def calibration_of(options: dict[str, Any]) -> Any:
    """The calibration that the options name; none for the one that ships."""
    from optimizer.cost.calibration import load_calibration
    from optimizer.cost.silicon.tables import require_tables

    if options.get("silicon") and options.get("calibration"):
        raise click.UsageError("--silicon is --calibration silicon; leave one of them out")
    tables, own = options.get("silicon") or options.get("timed"), options.get("timed") or ""
    name = options.get("calibration") or ("silicon" if tables else None)
    if not name:
        return None
    found = load_calibration(name)
    if own:
        named = f"{found.name} with {Path(own).stem}"
        return found.model_copy(update={"timed": own, "name": named})
    if found.tables:
        require_tables()
    return found


def workload_flags(options: dict[str, Any]) -> dict[str, Any]:
    """What the options say of the workload."""
    return {
        name.removeprefix("--").replace("-", "_"): value
        for name, _ in WORKLOAD_FLAGS
        if (value := options[name.removeprefix("--").replace("-", "_")]) is not None
    }


def job_of(options: dict[str, Any]) -> Any:
    """The job that the options name."""
    from optimizer.spec.reading import read_job

    for name in ("hardware", "model"):
        if options[name] is None:
            raise click.UsageError(f"--{name} is missing; a file or a preset, see optimize --help")
    return read_job(
        options["hardware"],
        options["model"],
        options["workload"],
        workload_flags(options),
        options["gpus"],
    )

"""Arguments in, one call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from optimizer.errors import (
    EXIT_CHECK,
    EXIT_TIME,
    InfeasibleError,
    OptimizerError,
    Problem,
    SpecError,
)
from optimizer.version import __version__

ENGINES = ("any", "vllm", "sglang", "trtllm", "megatron")
OBJECTIVES = ("throughput", "latency", "gpus", "balanced")

WORKLOAD_FLAGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--batch", {"type": int, "help": "Sequences of one forward pass."}),
    ("--seq-len", {"type": int, "help": "Tokens of each of them."}),
    ("--input-len", {"type": int, "help": "Input tokens of a request."}),
    ("--output-len", {"type": int, "help": "Output tokens of a request."}),
    ("--prefix-len", {"type": int, "help": "Input tokens found in the cache."}),
    ("--concurrency", {"type": int, "help": "Requests in flight, of the whole deployment."}),
    ("--request-rate", {"help": 'Requests that arrive, "20 req/s".'}),
    ("--ttft", {"help": 'Limit on the mean time to first token, "2s", or "p90=2s".'}),
    ("--tpot", {"help": 'Limit on the mean time per output token, "50ms".'}),
    ("--latency", {"help": 'Limit on one forward pass, "200ms".'}),
    ("--engine", {"type": click.Choice(ENGINES), "help": "Whose rules hold; any: the strictest."}),
)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a job: cluster, model, workload."""
    for flag, settings in reversed(WORKLOAD_FLAGS):
        command = click.option(flag, **settings)(command)
    for option in (
        click.option("--workload", metavar="FILE", help="A workload file or preset."),
        click.option("--gpus", type=int, help="GPUs of the cluster, in place of the file's."),
        click.option("--model", metavar="FILE", help="A YAML, a config.json, a preset or a plan."),
        click.option("--hardware", metavar="FILE", help="A YAML, a preset or a plan."),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@job_options
@click.option("--objective", type=click.Choice(OBJECTIVES), default="throughput", show_default=True)
@click.option("--top", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--strategy", metavar="NAME", help='Judge this layout, "EP8_TP4" or "EP8-TP2-DP4".')
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.999),
    metavar="P",
    help="Limits hold at this one-sided confidence and under the workload's stated skews.",
)
@click.option("--explain", type=int, metavar="RANK", help="Why this plan lost, term by term.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write [results/NAME].")
@click.option("--json", "as_json", is_flag=True, help="Print the best plan as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
@click.version_option(__version__, prog_name="optimize")
@click.pass_context
def optimize(context: click.Context, /, **options: Any) -> None:
    """Plans how a model is cut over GPUs, proves the plan best, and writes it down.

    \b
    optimize --hardware h200-sxm --gpus 16 --model deepseek-v3 --tpot 50ms
    """
    if context.invoked_subcommand is None:
        _plan(**options)


def _job(options: dict[str, Any]) -> Any:
    """The job that the options name."""
    from optimizer.spec.reading import read_job

    flags = {
        name.removeprefix("--").replace("-", "_"): value
        for name, _ in WORKLOAD_FLAGS
        if (value := options[name.removeprefix("--").replace("-", "_")]) is not None
    }
    for name in ("hardware", "model"):
        if options[name] is None:
            raise click.UsageError(f"--{name} is missing; a file or a preset, see optimize --help")
    return read_job(
        options["hardware"], options["model"], options["workload"], flags, options["gpus"]
    )


def _plan(**options: Any) -> None:
    """The main job."""
    from optimizer.pipeline import optimize as run
    from optimizer.pipeline import verify
    from optimizer.plan import write_plan
    from optimizer.report.files import run_files, run_name, write_files
    from optimizer.report.table import summary_text

    job = _job(options)
    folder = options["out"] or Path("results") / run_name(job.model.name, job.cluster.name)
    progress = _progress(options["quiet"])
    try:
        plans = run(
            job.cluster,
            job.model,
            job.workload,
            objective=options["objective"],
            top=options["top"],
            strategy=options["strategy"],
            confidence=options["confidence"],
            progress=progress,
        )
    except InfeasibleError:
        _refuse(job, options, folder, progress)
    findings = verify(plans)
    write_files(folder, run_files(plans, findings))
    if options["as_json"]:
        click.echo(write_plan(plans.best), nl=False)
    elif not options["quiet"]:
        click.echo(summary_text(plans))
        if job.strategy and not options["strategy"]:
            click.echo("\n" + _against_claim(job, plans))
        if options["explain"] is not None:
            click.echo("\n" + plans.explain(options["explain"]))
        click.echo(f"\nwritten to {folder}/")
    if not all(finding.ok for finding in findings):
        bad = [finding for finding in findings if not finding.ok]
        for finding in bad[:10]:
            click.echo(f"verify: {finding.check}: {finding.detail}", err=True)
        sys.exit(EXIT_CHECK)
    if any(plan.proof.status == "FEASIBLE" for plan in plans.plans):
        click.echo("the time limit ran out: the plan is feasible, its gap is stated", err=True)
        sys.exit(EXIT_TIME)


def _refuse(
    job: Any, options: dict[str, Any], folder: Path, progress: Callable[[str], None]
) -> NoReturn:
    """Why there is no plan and what would help: printed, written, and exit code 3."""
    from optimizer.repairing import Job, refusal_files, refuse, render
    from optimizer.report.files import write_files

    asked = Job(
        job.cluster,
        job.model,
        job.workload,
        options["strategy"],
        options["objective"],
        options["confidence"],
    )
    refusal = refuse(asked, progress)
    files = refusal_files(refusal)
    write_files(folder, files)
    if options["as_json"]:
        click.echo(files["infeasible.json"], nl=False)
    elif not options["quiet"]:
        click.echo(render(refusal) + "\n")
    raise InfeasibleError(f"there is no plan; why, and what would help: {folder}/infeasible.json")


def _progress(quiet: bool) -> Callable[[str], None]:
    """Says on the terminal what is going on once a run has taken a second."""
    from threading import Event, Timer

    late = Event()
    now = [""]

    def speak() -> None:
        late.set()
        click.echo(f"... {now[0]}", err=True)

    def say(step: str) -> None:
        now[0] = step
        if late.is_set():
            click.echo(f"... {step}", err=True)

    if not quiet and sys.stderr.isatty():
        timer = Timer(1.0, speak)
        timer.daemon = True
        timer.start()
    return say


def _against_claim(job: Any, plans: Any) -> str:
    """How the best plan compares with the strategy that the model file claims."""
    from optimizer.pipeline import claim_line

    return claim_line(job.cluster, job.model, job.workload, job.strategy, plans)


@optimize.command()
@job_options
@click.option("--objective", type=click.Choice(OBJECTIVES), default="throughput", show_default=True)
@click.option("--strategy", metavar="NAME", help="The layout in question.")
@click.option("--plan", type=click.Path(path_type=Path), help="A plan file in place of all else.")
def why(**options: Any) -> None:
    """Say why a layout is not the winner, and what would make it win."""
    from optimizer.explaining import why as explain
    from optimizer.plan import load_plan

    if options["plan"] is not None:
        plan = load_plan(options["plan"])
        layout = plan.deployment.layout
        answer = explain(plan.cluster, plan.model, plan.workload, layout, plan.objective)
    else:
        job = _job(options)
        strategy = options["strategy"] or job.strategy
        if strategy is None:
            raise click.UsageError("--strategy is missing; write for example --strategy EP8_TP4")
        answer = explain(job.cluster, job.model, job.workload, strategy, options["objective"])
    click.echo(answer.text())


@optimize.command()
@job_options
@click.option("--strategy", metavar="NAME", help="The layout to try them on [the best one].")
@click.argument("remedies", nargs=-1, required=True, metavar="REMEDY...")
def remedies(remedies: tuple[str, ...], **options: Any) -> None:
    """Price remedies, each alone: batch=64, weights=fp16, kv_cache=fp8, gpus=32, recompute ..."""
    from optimizer.repairing import Job, price_remedies, render_remedies

    job = _job(options)
    asked = Job(job.cluster, job.model, job.workload, options["strategy"])
    click.echo(render_remedies(price_remedies(asked, remedies)))


@optimize.command()
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def evaluate(rows: Path, out: Path) -> None:
    """Price given serving layouts, a row of a CSV each, without searching."""
    import pandas as pd

    from optimizer.evaluation import evaluate as price
    from optimizer.report.files import write_files

    try:
        table = pd.read_csv(rows)
    except (OSError, ValueError) as error:
        raise SpecError(Problem(f"no table of rows: {error}", str(rows))) from None
    found = price(table)
    write_files(out.parent, {out.name: found.to_csv(index=False, lineterminator="\n")})
    priced = int((found["reason"] == "").sum())
    click.echo(f"{priced:,} of {len(found):,} rows priced; written to {out}")


@optimize.command()
@click.option("--loads", required=True, metavar="FILE", help="CSV, .npy or recorded JSON.")
@click.option("--gpus", required=True, type=click.IntRange(1))
@click.option("--slots", required=True, type=click.IntRange(1), help="Expert slots of all GPUs.")
@click.option("--nodes", default=1, type=click.IntRange(1), show_default=True)
@click.option("--groups", type=click.IntRange(1), help="Runs of experts that stay on one node.")
@click.option("--current", metavar="FILE", help="A placement.json to change as little as asked.")
@click.option("--max-moves", type=click.IntRange(0), help="Slots a layer that may change.")
@click.option("--no-duplicates", is_flag=True, help="No two copies of an expert on one GPU.")
@click.option("--out", default=Path("placement.json"), type=click.Path(path_type=Path))
def experts(**options: Any) -> None:
    """Place experts on slots so that the hottest GPU carries least, with a bound of each layer."""
    from optimizer.placing_experts import place, summary
    from optimizer.report.files import write_files

    placement, files, findings = place(**{key: options[key] for key in options if key != "out"})
    folder, name = options["out"].parent, options["out"].name
    write_files(folder, {name if key == "placement.json" else key: files[key] for key in files})
    click.echo(summary(placement))
    click.echo(f"written to {options['out']}, and as SGLang, TensorRT-LLM and vLLM read it")
    for finding in findings:
        click.echo(f"verify: {finding}", err=True)
    if findings:
        sys.exit(EXIT_CHECK)


@optimize.command()
@click.argument("plans", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--accept", metavar="REASON", help="Rewrite changed plans, with the reason in them.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder for regress.json.",
)
def regress(plans: tuple[Path, ...], accept: str | None, out: Path) -> None:
    """Plan golden plans again and compare; exit code 4 where one became worse."""
    from optimizer import regression
    from optimizer.report.files import write_files

    comparisons = regression.regress(plans)
    click.echo(regression.regression_table(comparisons))
    write_files(out, {"regress.json": regression.regression_json(comparisons)})
    if accept is not None:
        count = regression.accept(plans, comparisons, accept)
        click.echo(f"{count} rewritten")
    elif any(each.verdict in ("worse", "failed") for each in comparisons):
        sys.exit(EXIT_CHECK)


def main() -> NoReturn:
    """The entry point: every error that a user can cause is one message and an exit code."""
    import signal

    stopped = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        optimize.main(prog_name="optimize", standalone_mode=False)
        sys.exit(0)
    except OptimizerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except (Exception, KeyboardInterrupt):
        # An import that Ctrl-C interrupts may raise anything in its place.
        if not stopped:
            raise
        click.echo("stopped; nothing was written", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()

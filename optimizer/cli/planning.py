"""The main job: plan, verify, write, print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

from optimizer.cli.job import calibration_of, job_of
from optimizer.errors import EXIT_CHECK, EXIT_TIME, InfeasibleError


def plan(options: dict[str, Any]) -> None:
    """The main job."""
    from optimizer.pipeline import optimize as run
    from optimizer.pipeline import verify
    from optimizer.placing_experts import files_of
    from optimizer.plan import write_plan
    from optimizer.report.files import run_files, run_name, write_run
    from optimizer.report.table import summary_text

    job = job_of(options)
    if _composed(job, options):
        return
    folder = options["out"] or Path("results") / run_name(job.model.name, job.cluster.name)
    progress = _progress(options["quiet"])
    asked = {name: options[name] for name in ("objective", "strategy", "confidence")}
    asked["top"] = max(options[name] or 1 for name in ("top", "simulate_top", "explain"))
    try:
        asked["calibration"] = calibration_of(options)
        plans = run(job.cluster, job.model, job.workload, **asked, progress=progress)
    except InfeasibleError:
        _refuse(job, options, folder, progress)
    plans, beside = _staying(plans, options)
    if options["survive"] is not None:
        from optimizer.surviving import survive

        plans, beside = survive(
            job.cluster, job.model, job.workload, options["survive"], **asked, progress=progress
        )
    findings = verify(plans)
    simulated = _simulated(plans, options["simulate_top"], progress)
    beside |= {**simulated.files, **files_of(plans.best)}
    write_run(folder, {**run_files(plans, findings), **beside})
    if options["as_json"]:
        click.echo(write_plan(plans.best), nl=False)
    elif not options["quiet"]:
        click.echo(summary_text(plans))
        if job.strategy and not options["strategy"]:
            click.echo("\n" + _against_claim(job, plans))
        if options["explain"] is not None:
            click.echo("\n" + plans.explain(options["explain"]))
        if simulated.text:
            click.echo("\n" + simulated.text)
        click.echo(f"\nwritten to {folder}/")
    _exit(findings, any(plan.proof.status == "FEASIBLE" for plan in plans.plans))


ONE_LAYOUT = ("strategy", "confidence", "survive", "current", "explain", "simulate_top")


def _composed(job: Any, options: dict[str, Any]) -> bool:
    """The main job over ways to serve, where it is asked for or several pools may share the work;
    False where plans of one layout are left to be ranked."""
    if options["modes"] is None and len(job.cluster.pools) == 1:
        return False
    from optimizer.answering import modes_of, optimize
    from optimizer.fleets import verify_answers
    from optimizer.placing_experts import files_of_answer
    from optimizer.report.answers import answers_text, document_text
    from optimizer.report.files import answers_files, run_name, write_run

    narrowed = [f"--{name.replace('_', '-')}" for name in ONE_LAYOUT if options[name] is not None]
    if options["modes"] is not None and narrowed:
        raise click.UsageError(f"{narrowed[0]} is of plans of one layout; leave out it or --modes")
    asked = {name: options[name] for name in ("objective", "top")}
    modes = None if narrowed else modes_of(options["modes"], job, options["objective"])
    if modes is None:
        return False
    asked |= {"calibration": calibration_of(options), "progress": _progress(options["quiet"])}
    try:
        answers = optimize(job.cluster, job.model, job.workload, modes=modes, **asked)
    except InfeasibleError as error:
        if "aggregated" not in modes:
            raise
        if not options["quiet"]:
            click.echo(f"{error}\n", err=True)
        return False
    findings = verify_answers(answers)
    folder = options["out"] or Path("results") / run_name(job.model.name, job.cluster.name)
    write_run(folder, {**answers_files(answers, findings), **files_of_answer(answers.best)})
    if options["as_json"]:
        click.echo(document_text(answers.best), nl=False)
    elif not options["quiet"]:
        click.echo(f"{answers_text(answers)}\n\nwritten to {folder}/")
    _exit(findings, answers.proof.status == "FEASIBLE")
    return True


def _exit(findings: Sequence[Any], unproven: bool) -> None:
    """The exit code of a run whose files are written."""
    bad = [finding for finding in findings if not finding.ok]
    for finding in bad[:10]:
        click.echo(f"verify: {finding.check}: {finding.detail}", err=True)
    if bad:
        sys.exit(EXIT_CHECK)
    if unproven:
        click.echo("the time limit ran out: the plan is feasible, its gap is stated", err=True)
        sys.exit(EXIT_TIME)


def _staying(plans: Any, options: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """The plans beside what runs now, where the options name it, and the files that say so."""
    if options["current"] is None:
        return plans, {}
    from optimizer.moving import stay_close
    from optimizer.plan import load_plan

    settled, moves = stay_close(plans, load_plan(options["current"]), options["within"])
    return settled, {"moves.json": moves}


class _Simulated(NamedTuple):
    text: str = ""
    files: Mapping[str, str] = {}


def _simulated(plans: Any, count: int | None, progress: Callable[[str], None]) -> _Simulated:
    """The best `count` plans simulated: what to print, what to write."""
    if count is None:
        return _Simulated()
    from optimizer.simulate.confirming import confirm, confirmation_csv, confirmation_text

    progress(f"simulating {count} plans")
    found = confirm(plans.plans[:count])
    files = {"simulated_strategies.csv": confirmation_csv(found)}
    return _Simulated(confirmation_text(found), files)


def _refuse(
    job: Any, options: dict[str, Any], folder: Path, progress: Callable[[str], None]
) -> NoReturn:
    """Why there is no plan and what would help: printed, written, and exit code 3."""
    from optimizer.repairing import Job, refusal_files, refuse, render
    from optimizer.report.files import write_run

    asked = Job(
        job.cluster,
        job.model,
        job.workload,
        options["strategy"],
        options["objective"],
        options["confidence"],
        calibration_of(options),
    )
    refusal = refuse(asked, progress)
    files = refusal_files(refusal)
    write_run(folder, files)
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

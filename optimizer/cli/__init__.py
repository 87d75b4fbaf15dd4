"""Arguments in, one call, print: a module a command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from optimizer.cli.audit import audit
from optimizer.cli.calibrate import calibrate
from optimizer.cli.dag import dag
from optimizer.cli.evaluate import evaluate
from optimizer.cli.experts import experts
from optimizer.cli.fleet import fleet
from optimizer.cli.job import OBJECTIVES, WITHIN, calibration_option, job_options
from optimizer.cli.regress import regress
from optimizer.cli.sections import SectionedGroup
from optimizer.cli.simulate import simulate
from optimizer.cli.why import remedies, why
from optimizer.errors import OptimizerError
from optimizer.version import __version__

COMMANDS = (why, remedies, evaluate, calibrate, experts, audit, fleet, regress, simulate, dag)


@click.group(cls=SectionedGroup, invoke_without_command=True)
@job_options
@calibration_option
@click.option("--objective", type=click.Choice(OBJECTIVES), default="throughput", show_default=True)
@click.option(
    "--top", type=click.IntRange(1, 100), default=5, help="Plans to rank.", show_default=True
)
@click.option(
    "--modes",
    metavar="MODES",
    help="aggregated, disaggregated or both with a comma: rank prefill and decode together and "
    "apart, over all pools  [several pools: both; one: plans of one layout]",
)
@click.option("--strategy", metavar="NAME", help='Judge this layout, "EP8_TP4" or "EP8-TP2-DP4".')
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.999),
    metavar="P",
    help="Limits hold at this one-sided confidence and under the workload's stated skews.",
)
@click.option(
    "--survive", type=click.Choice(["gpu", "node"]), help="Any one of them may die; see fallbacks."
)
@click.option(
    "--current", type=click.Path(path_type=Path), metavar="PLAN", help="Stay close to what runs."
)
@WITHIN
@click.option(
    "--explain",
    type=click.IntRange(1, 100),
    metavar="RANK",
    help="Why the plan of this rank lost, term by term.",
)
@click.option(
    "--simulate-top",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Simulate the best N plans: is the winner confirmed, or does the ranking change?",
)
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
        from optimizer.cli.planning import plan

        plan(options)


for each in COMMANDS:
    optimize.add_command(each)


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
    except SystemExit as left:
        # click ends with 1 where the reader of a pipe went away (`| head`): it has seen enough.
        sys.exit(0 if left.code == 1 else left.code)
    except OSError as error:
        _mute()
        click.echo(f"error: {error.filename or 'standard output'}: {error.strerror}", err=True)
        sys.exit(2)
    except (Exception, KeyboardInterrupt):
        # An import that Ctrl-C interrupts may raise anything in its place.
        if not stopped:
            raise
        click.echo("stopped; nothing was written", err=True)
        sys.exit(130)


def _mute() -> None:
    """Nobody takes what is printed: what the interpreter still holds of it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""`optimize audit`: judge what somebody claims of a deployment."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from optimizer.cli.job import job_options, workload_flags
from optimizer.cli.sections import SectionedCommand
from optimizer.errors import EXIT_CHECK

LAUNCHED = {
    "vllm": "'vllm serve ...', or a file of commands.",
    "sglang": "'sglang serve ...', likewise.",
    "trtllm": "'trtllm-serve ...', its YAML, or a file of commands.",
    "megatron": "'torchrun ... --tensor-model-parallel-size ...', or a file of commands.",
}


def launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each engine whose launch commands are judged."""
    for engine, help_text in reversed(LAUNCHED.items()):
        flag = f"--{engine}"
        command = click.option(flag, multiple=True, metavar="COMMAND", help=help_text)(command)
    return command


def finish(audit: Any, options: dict[str, Any]) -> None:
    """Writes and prints an audit; exit code 4 when anything is refuted."""
    from optimizer.audit.writing import audit_files, audit_table
    from optimizer.report.files import write_files

    files = audit_files(audit)
    folder = options["out"]
    write_files(folder, files)
    if options["as_json"]:
        click.echo(files["audit.json"], nl=False)
    elif not options["quiet"]:
        click.echo(audit_table(audit))
        click.echo(f"\nwritten to {folder}/")
    if audit.refuted:
        sys.exit(EXIT_CHECK)


@click.command(
    cls=SectionedCommand, short_help="Judge reports and launch commands that others wrote."
)
@click.argument("claims", nargs=-1, type=click.Path(path_type=Path), metavar="[CLAIMS]...")
@launch_options
@job_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/audit"),
    show_default=True,
    help="Folder to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print audit.json.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def audit(claims: tuple[Path, ...], **options: Any) -> None:
    """Judge the claims of deployment reports, and launch commands: each claim confirmed, refuted or
    unverifiable, and why.

    \b
    optimize audit report.yaml
    optimize audit --vllm "vllm serve deepseek-ai/DeepSeek-V3 -tp 8" --hardware h200-sxm
    """
    from optimizer.audit.finding import Audit
    from optimizer.audit.job import audit as judge
    from optimizer.audit.launch import audit_launches

    sources = [(engine, source) for engine in LAUNCHED for source in options[engine]]
    if not claims and not sources:
        raise click.UsageError("nothing to judge: give a claims file, --vllm, --sglang, ...")
    if sources and options["hardware"] is None:
        raise click.UsageError("--hardware is missing; a launch command does not say it")
    found = judge(claims) if claims else Audit()
    if sources:
        asked = (options["hardware"], options["gpus"], options["model"], options["workload"])
        found += audit_launches(sources, *asked, workload_flags(options))
    finish(found, options)

"""Help in sections: what a job is, its workload by kind, and the rest."""

from __future__ import annotations

import click

_SECTIONS = {
    "What to plan": "hardware gpus model workload engine",
    "Serving": "input_len output_len prefix_len concurrency request_rate ttft tpot",
    "Experts": "expert_loads expert_skew redundant_experts",
    "One forward pass": "batch seq_len latency",
    "Training": "global_batch sequence_length micro_batch step_time",
    "Constants": "calibration silicon timed",
    "What comes out": "top explain simulate_top out as_json quiet version help",
}
_SECTION = {name: section for section, names in _SECTIONS.items() for name in names.split()}
_OWN = "How to choose"  # what only some commands ask


class SectionedCommand(click.Command):
    """A command whose options stand in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_sections(self, ctx, formatter)


class SectionedGroup(click.Group):
    """A group whose own options stand in sections, its commands behind them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_sections(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def write_sections(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """The options that have a help text, section by section."""
    order = [*list(_SECTIONS)[:-2], _OWN, *list(_SECTIONS)[-2:]]
    records: dict[str, list[tuple[str, str]]] = {section: [] for section in order}
    for option in command.get_params(ctx):
        record = option.get_help_record(ctx)
        if record is not None:
            name = "help" if "--help" in option.opts else option.name or ""
            records[_SECTION.get(name, _OWN)].append(record)
    for section, rows in records.items():
        if rows:
            with formatter.section(section):
                formatter.write_dl(rows)

"""Ranked ways to serve, for a reader: table, CSV, guide."""

from __future__ import annotations

import csv
import io

from optimizer.export.serving import COMMANDS, ROUTERS
from optimizer.plan import Answer, Answers, Plan, Share, write_plan
from optimizer.plan.fleet import write_fleet
from optimizer.report.guide import deployment_section, watch_section
from optimizer.report.table import aligned, assumption_lines
from optimizer.units import milliseconds


def answer_table(answers: Answers) -> str:
    """The ranked ways to serve."""
    head = ["rank", "mode", "layouts", "GPUs", "requests/s", "tokens/s/GPU used"]
    rows = [[*head, "TTFT", "of it cache", "TPOT", "limited by"]]
    rows += [
        [
            str(answer.rank),
            answer.mode,
            answer.name,
            str(answer.gpus),
            f"{answer.requests_per_s:.4g}",
            f"{answer.tokens_per_s / answer.gpus:,.0f}",
            milliseconds(answer.ttft_s),
            milliseconds(answer.transfer_s) if answer.transfer_s else "-",
            milliseconds(answer.tpot_s),
            answer.limited_by,
        ]
        for answer in answers.answers
    ]
    return "\n".join(aligned(rows))


def rates_table(answer: Answer) -> str:
    """The rates of an answer's layouts beside what each could serve."""
    rows = [["role", "pool", "layout", "GPUs", "requests/s", "could serve"]]
    rows += [
        [
            share.role,
            share.pool,
            share.plan.name,
            str(share.plan.deployment.gpus),
            f"{share.requests_per_s:.4g}",
            f"{share.capacity_per_s:.4g}",
        ]
        for share in answer.shares
    ]
    return "\n".join(aligned(rows))


def ways_line(answers: Answers) -> str:
    """How the best answer is proven over all ways to serve, in one line."""
    proof = answers.proof
    several = len(answers.best.document.cluster.pools) > 1
    where = ", of replicas in one pool each" if several else ""
    value, bound = (abs(end) / proof.scale for end in (proof.value, proof.bound))
    what = "requests/s" if proof.objective == "served" else proof.objective
    return (
        f"{proof.status}: {what} {value:,.6g}, bound {bound:,.6g}, gap {proof.gap:.2%}; "
        f"{proof.combinations:,.0f} combinations of {proof.vectors:,} ways to serve a role{where}"
    )


def answers_text(answers: Answers) -> str:
    """All that a run prints."""
    best = answers.best
    lost = [f"  {each.rank}. {each.mode} {each.name}: {each.why}" for each in answers.answers[1:]]
    parts = [answer_table(answers), rates_table(best), ways_line(answers)]
    if lost:
        parts.append("\n".join(["why the others lost:", *lost]))
    if answers.notes:
        parts.append("\n".join(["notes:", *(f"  {note}" for note in answers.notes)]))
    parts.append(assumption_lines(best.shares[0].plan))
    return "\n\n".join(parts)


def answers_csv(answers: Answers) -> str:
    """The ranked answers, a row each, units in the column names."""
    rows = [answer.summary() for answer in answers.answers]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def document_text(answer: Answer) -> str:
    """The answer's plan or fleet as JSON text."""
    document = answer.document
    return write_plan(document) if isinstance(document, Plan) else write_fleet(document)


def answers_guide(answers: Answers) -> str:
    """The guide to the best answer, as Markdown."""
    best = answers.best
    plan = best.shares[0].plan
    ranked = "\n\n".join([answer_table(answers), ways_line(answers)])
    sections = [
        f"# {plan.model.name} on {best.document.cluster.name}: {best.name}",
        _figures(best),
        f"```\n{rates_table(best)}\n```",
        _launch(best),
        *(deployment_section(share.plan.deployment, _title(share)) for share in best.shares),
        *(
            watch_section(share.plan, f"What to watch: {_title(share).lower()}")
            for share in best.shares
        ),
        f"## Ranked ways to serve\n\n```\n{ranked}\n```",
        f"## Assumptions\n\n```\n{assumption_lines(plan)}\n```",
        "## Check it\n\n```\npython verify_strategy.py optimal_parallel_strategy.json\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _title(share: Share) -> str:
    return share.role.capitalize()


def _figures(answer: Answer) -> str:
    rows = [
        ("requests/s", f"{answer.requests_per_s:,.4g}"),
        ("output tokens/s", f"{answer.tokens_per_s:,.4g}"),
        ("mean TTFT", milliseconds(answer.ttft_s)),
        ("of it moving the cache", milliseconds(answer.transfer_s)),
        ("mean TPOT", milliseconds(answer.tpot_s)),
        ("GPUs", f"{answer.gpus:,}"),
        ("limited by", answer.limited_by),
    ]
    return "\n".join(["| predicted | value |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def _launch(answer: Answer) -> str:
    """The commands of every role by engine, and what stands in front of them."""
    asked = answer.shares[0].plan.workload.engine
    engines = [asked] if asked in COMMANDS else list(COMMANDS)
    lines = ["## Launch", "", "One command a replica, on the GPUs that the tables below name."]
    for engine in engines:
        lines += ["", f"{engine}:", "", "```"]
        for share in answer.shares:
            layout = share.plan.deployment.layout
            command = COMMANDS[engine](share.plan, share.role)
            gpus = layout.gpus // layout.replicas
            lines.append(f"# {share.role} in {share.pool}: {layout.replicas} x {gpus} GPUs")
            lines.append(command or f"# {engine} has no flags for {share.plan.name}")
        lines.append("```")
        if answer.mode == "disaggregated":
            lines += ["", f"In front: {ROUTERS[engine]}."]
    if len(answer.shares) > 1:
        lines += ["", "Requests go to replicas of one role in these shares:", ""]
        lines += [
            f"- {share.role}, {share.plan.name} in {share.pool}: {share.requests_per_s:.4g} "
            "requests/s"
            for share in answer.shares
        ]
    return "\n".join(lines)

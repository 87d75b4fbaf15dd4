"""The files of a run, written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from optimizer.errors import Problem, SpecError
from optimizer.plan import Answers, Plans, summary, write_plan
from optimizer.report.answers import answers_csv, answers_guide, document_text
from optimizer.report.guide import guide
from optimizer.report.pareto import pareto_csv, pareto_svg
from optimizer.verify import Finding, bundle, results

PLAN_FILE = "optimal_parallel_strategy.json"
RUN_FILES = (  # all that a run may write, or a refusal
    *(PLAN_FILE, "ranked_strategies.csv", "implementation_guide.md", "verify_strategy.py"),
    *("verification_results.json", "pareto.csv", "pareto.svg", "simulated_strategies.csv"),
    *("*placement.json", "*sglang_expert_location.json", "*trtllm_moe_load_balancer.yaml"),
    *("*vllm_expert_map.json", "moves.json", "fallbacks.json", "fallback_[0-9]*.json"),
    *("infeasible.json", "repair_[0-9]*.json"),
)


def run_name(model: str, cluster: str) -> str:
    """The folder of a run, by the names of its model and its cluster."""
    names = dict.fromkeys((model, cluster))
    parts = [re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") for name in names]
    return "-on-".join(part for part in parts if part) or "run"


def run_files(plans: Plans, findings: Sequence[Finding]) -> dict[str, str]:
    """Every file of a run by name."""
    files = {
        PLAN_FILE: write_plan(plans.best),
        "ranked_strategies.csv": ranked_csv(plans),
        "implementation_guide.md": guide(plans),
        "verify_strategy.py": bundle(),
        "verification_results.json": _results_text(findings),
    }
    if plans.front is not None and len(plans.front):
        title = f"{plans.best.model.name} on {plans.best.cluster.name}"
        files["pareto.csv"] = pareto_csv(plans.front)
        files["pareto.svg"] = pareto_svg(plans.front, title)
    return files


def answers_files(answers: Answers, findings: Sequence[Finding]) -> dict[str, str]:
    """Every file of a run that ranked ways to serve, by name."""
    return {
        PLAN_FILE: document_text(answers.best),
        "ranked_strategies.csv": answers_csv(answers),
        "implementation_guide.md": answers_guide(answers),
        "verify_strategy.py": bundle(),
        "verification_results.json": _results_text(findings),
    }


def _results_text(findings: Sequence[Finding]) -> str:
    return json.dumps(results(list(findings)), indent=1, ensure_ascii=False) + "\n"


def ranked_csv(plans: Plans) -> str:
    """The ranked plans, a row each, units in the column names."""
    why = {other.rank: other.why for plan in plans.plans for other in plan.others}
    rows = [{**summary(plan), "why": why.get(plan.rank, "the best")} for plan in plans.plans]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_run(folder: Path, files: Mapping[str, str]) -> None:
    """Writes the files of a run; what an earlier run left of them and this one has not, goes."""
    write_files(folder, files)
    for stale in (path for pattern in RUN_FILES for path in folder.glob(pattern)):
        if stale.name not in files:
            stale.unlink()


def write_files(folder: Path, files: Mapping[str, str | Iterable[str] | Iterable[bytes]]) -> None:
    """Writes all files next to their places first and renames them only when all are written;
    content may come in pieces."""
    written: list[tuple[str, Path]] = []
    at = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            handle, partial = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            written.append((partial, folder / name))
            with os.fdopen(handle, "wb") as stream:
                for piece in (text,) if isinstance(text, str) else text:
                    stream.write(piece.encode("utf-8") if isinstance(piece, str) else piece)
            os.chmod(partial, 0o644)
        for partial, at in written:
            os.replace(partial, at)
    except OSError as error:
        raise SpecError(
            Problem(
                f"cannot be written: {error.strerror}; name another",
                str(at),
                key="--out",
            )
        ) from None
    finally:
        for partial, _ in written:
            Path(partial).unlink(missing_ok=True)

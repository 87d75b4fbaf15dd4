"""No plan: why, as conflicts with their numbers, and what would help, as plans that are proven."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from optimizer import pipeline
from optimizer.cost.candidates import Candidates
from optimizer.cost.rows import expand
from optimizer.errors import InfeasibleError
from optimizer.layout import ParallelLayout, divisibility_problems
from optimizer.pipeline import reading_note, readings
from optimizer.plan import Plan
from optimizer.repairing.changes import Change
from optimizer.repairing.job import Job
from optimizer.repairing.outlook import few_rows, outlook, where
from optimizer.repairing.proposals import Proposal, cost_of_all, proposals
from optimizer.repairing.training import training_proposals
from optimizer.search.choosing import nearest_row
from optimizer.search.conflicts import Conflict, conflicts
from optimizer.search.room import with_room
from optimizer.spec.workload import TrainingWorkload

MOST_REPAIRS = 6
MOST_TRIED = 10  # proposals that go down the whole line, those that fail there counted
WANTED_REPAIRS = 3
MOST_CANDIDATES = 1_000_000  # priced on the way, after which the wanted ones are enough
NOT_REFUSED = "nothing is wrong: some candidate keeps every limit"


@dataclass(frozen=True)
class BeforeAfter:
    """One limit: need and bound of the nearest candidate before, and of the repair's plan."""

    limit: str
    before: tuple[float, float] | None  # None: nothing could be priced before
    after: tuple[float, float]


@dataclass(frozen=True)
class Repair:
    """Changes, and the best plan of the job as it is after them; every check of verify holds."""

    changes: tuple[Change, ...]
    plan: Plan
    limits: tuple[BeforeAfter, ...]
    checks: int

    @property
    def cost(self) -> float:
        return cost_of_all(self.changes)

    @property
    def text(self) -> str:
        return " and ".join(change.text for change in self.changes)


@dataclass(frozen=True)
class Refusal:
    """All that is known about a job without a plan."""

    job: Job
    reading: str | None  # how the strategy's name was read
    problems: tuple[str, ...]  # what does not divide, before any limit is looked at
    conflicts: tuple[Conflict, ...]
    repairs: tuple[Repair, ...]  # cheapest first
    unproven: tuple[str, ...]  # changes that pricing promised and the line or verify refused


def refuse(job: Job, progress: Callable[[str], None] = lambda step: None) -> Refusal:
    """Why a job has no plan, and the cheapest changes that give it one."""
    asked, judged, reading, problems = job, None, None, list[str]()
    if job.strategy is not None:
        found = readings(job.cluster, job.model, job.strategy, job.workload)
        judged, reading = found[0].layout, reading_note(job.strategy, found)
        problems = divisibility_problems(judged, job.model, job.workload)
        job = job._replace(strategy=f"canonical:{judged.name}")
    if isinstance(job.workload, TrainingWorkload):
        return _refuse_training(asked, job, judged, reading, problems, progress)
    seen = None
    progress("finding the limits in conflict")
    if not problems:
        free = getattr(job.workload, "request_rate", None) is None
        seen = outlook(job, rows_of=few_rows if free else expand)
        if (seen.own.candidates.broken() == 0).any():
            return Refusal(asked, reading, (NOT_REFUSED,), (), (), ())
    progress("pricing changes")
    ranked = proposals(job, seen, judged)
    progress(f"proving the cheapest of {len(ranked)} changes")
    proven = list(_prove(ranked, seen.own.candidates if seen else None))
    return Refusal(
        job=asked,
        reading=reading,
        problems=tuple(problems),
        conflicts=conflicts(seen.wide.candidates, partial(where, seen.wide)) if seen else (),
        repairs=tuple(each for each in proven if isinstance(each, Repair)),
        unproven=tuple(each for each in proven if isinstance(each, str)),
    )


def _refuse_training(
    asked: Job,
    job: Job,
    judged: ParallelLayout | None,
    reading: str | None,
    problems: Sequence[str],
    progress: Callable[[str], None],
) -> Refusal:
    """As refuse does, with the changes that training knows; each is tried down the line."""
    candidates = None
    if judged is not None and judged.gpus > job.cluster.num_live_gpus:
        problems = (*problems, f"GPUs: {judged.gpus} needed, {job.cluster.num_live_gpus} there")
    if not problems:
        spaces = pipeline.enumerate_spaces(job.cluster, job.model, job.workload, job.strategy)
        priced = pipeline.price(job.cluster, job.model, job.workload, spaces, job.strategy)
        candidates = with_room(job.cluster, priced.candidates)
    progress("proving the cheapest changes")
    proven = list(_prove(training_proposals(job, judged), candidates))
    return Refusal(
        job=asked,
        reading=reading,
        problems=tuple(problems),
        conflicts=conflicts(candidates) if candidates is not None else (),
        repairs=tuple(each for each in proven if isinstance(each, Repair)),
        unproven=tuple(each for each in proven if isinstance(each, str)),
    )


def _prove(ranked: Sequence[Proposal], before: Candidates | None) -> Iterator[Repair | str]:
    """Each proposal down the whole line and through verify: a repair, or why it is none."""
    repairs, candidates = 0, 0
    for proposal in ranked[:MOST_TRIED]:
        job = proposal[-1].job
        text = " and ".join(change.text for change in proposal)
        try:
            plans = job.plan()
        except InfeasibleError as error:
            yield f"{text}: {'; '.join(error.reasons)}"
            continue
        findings = pipeline.verify(plans)
        failed = [finding for finding in findings if not finding.ok]
        if failed:
            yield f"{text}: verify: {failed[0].check}: {failed[0].detail}"
            continue
        yield Repair(proposal, plans.best, _limits(before, plans.best), len(findings))
        repairs += 1
        candidates += plans.best.proof.candidates
        if repairs >= (WANTED_REPAIRS if candidates > MOST_CANDIDATES else MOST_REPAIRS):
            return


def _limits(before: Candidates | None, plan: Plan) -> tuple[BeforeAfter, ...]:
    row = nearest_row(before) if before is not None and len(before) else None
    found = []
    for slack in plan.limits:
        old = None
        if before is not None and row is not None and slack.name in before.limits:
            needs, limits = before.needs[slack.name], before.limits[slack.name]
            old = float(needs[row]), float(limits[row])
        found.append(BeforeAfter(slack.name, old, (slack.need, slack.limit)))
    return tuple(found)

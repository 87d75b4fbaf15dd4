"""Continuous batching: what one micro-batch of a replica does next, and what it then has done.

The attention ranks of a lane step together; each has its own queue and its own cache. Runs of
decode steps that nothing can change are taken as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from optimizer.simulate.serving.queue import Rank, Task
from optimizer.simulate.serving.steps import Batch


class Chunk(NamedTuple):
    """Prompt tokens that a step computes, behind `start` others."""

    rank: Rank
    task: Task
    start: int
    tokens: int

    @property
    def ends_prompt(self) -> bool:
        return self.start + self.tokens == self.task.prompt


@dataclass(eq=False, slots=True)
class Run:
    """`steps` equal steps of decoding, or one step that prefills and, where `decodes`, decodes."""

    steps: int
    decodes: bool
    first: Batch
    last: Batch
    sequences: int
    chunks: tuple[Chunk, ...] = ()
    holds: bool = False


class Done(NamedTuple):
    """What a run brought about: first tokens, finished requests."""

    first: list[Task]
    finished: list[Task]


class Lane:
    """The ranks of one micro-batch; `step` counts the decode steps done.

    Where a pipeline has several, each takes from the ranks' common queues when its turn comes, and
    may go on with a prompt whose last chunk another one still computes: chunks follow each other
    through the stages (vLLM's and SGLang's chunked prefill over a pipeline). The one with the last
    chunk keeps the request.

    Requests that arrived are noticed after a step that prefilled, when nothing runs, and every
    `poll_steps` decode steps.
    """

    def __init__(
        self,
        ranks: list[Rank],
        chunk: int,
        mixed: bool,
        cp: int,
        poll_steps: int = 1,
        align_steps: int = 0,
    ) -> None:
        self.ranks, self.chunk, self.mixed, self.cp = ranks, chunk, mixed, cp
        self.poll_steps = poll_steps
        self.align_steps = align_steps if len(ranks) > 1 else 0
        self._held = 0  # decode steps that prompts have waited for others
        self.step = 0
        self._unpolled = 0  # decode steps since requests were noticed
        self.preemptions = 0
        self._ends: list[tuple[int, int, Task, Rank]] = []

    def steps_to_poll(self, steps: int) -> int:
        """The fewest decode steps from now, `steps` at least, after which requests are noticed."""
        due = self._unpolled + steps
        return -(-due // self.poll_steps) * self.poll_steps - self._unpolled

    def refresh(self) -> None:
        """Other micro-batches drew from the same blocks."""
        for rank in self.ranks:
            rank.cache.sync(self.step)
            self._changed(rank)

    def plan(self) -> Run | None:
        """The next run; None where there is nothing to do."""
        self._notice()
        for rank in self.ranks:
            self._take_over(rank)
        if self.mixed:
            self._make_room()
        chunks: list[Chunk] = []
        holding = self._holds()
        for rank in self.ranks:
            if rank.queue.waiting and not rank.queue.blocked and not holding:
                self._fill(rank, chunks)
        if chunks:
            return self._prefill_run(chunks)
        if not self.mixed:
            self._make_room()
        return self._decode_run(self.align_steps - self._held if holding else None)

    def _holds(self) -> bool:
        """Whether prompts wait for prompts of the other ranks: all ranks stand still while one
        prefills, so that engines gather one for each, for so many steps at most."""
        if not self.align_steps or self._held >= self.align_steps:
            return False
        if not all(rank.running for rank in self.ranks):
            return False
        heads = [rank.next_prompt() for rank in self.ranks]
        begun = any(task is not None and task.admitted for task in heads)
        return not begun and any(heads) and not all(heads)

    def _notice(self) -> None:
        if self._unpolled % self.poll_steps and any(rank.running for rank in self.ranks):
            return
        self._unpolled = 0
        for rank in self.ranks:
            if rank.queue.arrived:
                rank.queue.waiting.extend(rank.queue.arrived)
                rank.queue.arrived.clear()

    def _take_over(self, rank: Rank) -> None:
        """Requests whose whole prompt was computed elsewhere, and sent, decode at once."""
        waiting = rank.queue.waiting
        while waiting and waiting[0].cached == waiting[0].prompt:
            task = waiting[0]
            rank.cache.sync(self.step)
            if not rank.has_room(task):
                return
            rank.cache.pool.used += rank.cache.blocks(task.prompt)
            self._begin(rank, task)

    def _make_room(self) -> None:
        """Sends the latest comers back to the queue where the next step would find no block."""
        for rank in self.ranks:
            while rank.full_at <= self.step:
                rank.cache.sync(self.step)
                _, task = rank.running.popitem()
                assert task.held is not None
                rank.cache.release(task.held)
                made = task.output - (task.end - self.step)
                task.restart(task.prompt + made - task.made + 1, made)
                begun = sum(each.admitted for each in rank.queue.waiting)
                rank.queue.waiting.insert(begun, task)
                rank.queue.blocked = True
                self.preemptions += 1
                self._changed(rank)

    def _changed(self, rank: Rank) -> None:
        rank.full_at = self.step + rank.cache.steps_left()

    def _fill(self, rank: Rank, chunks: list[Chunk]) -> None:
        """Prompt tokens of one rank for this step: first come, first served."""
        cache = rank.cache
        cache.sync(self.step)
        decoding = cache.count if self.mixed else 0
        budget = self.chunk - decoding
        if budget <= 0:
            return
        free = cache.free - (cache.needed(1) if self.mixed else 0)
        admitted = len(rank.running)
        for task in rank.queue.waiting:
            start = task.cached + task.in_flight
            if start == task.prompt:
                continue  # another micro-batch is at its last chunk
            if not task.admitted:
                blocks = cache.blocks(task.prompt)
                if admitted >= rank.slots:
                    break
                if blocks > free:
                    rank.queue.blocked = not any(chunk.rank is rank for chunk in chunks)
                    break
                free -= blocks
                cache.pool.used += blocks
                task.admitted = True
            admitted += 1
            tokens = min(budget, task.prompt - start)
            budget -= tokens
            task.in_flight += tokens
            chunks.append(Chunk(rank, task, start, tokens))
            if budget <= 0:
                break
        self._changed(rank)

    def _prefill_run(self, chunks: list[Chunk]) -> Run:
        decoding = self.mixed
        tokens: dict[int, int] = {}
        for chunk in chunks:
            tokens[id(chunk.rank)] = tokens.get(id(chunk.rank), 0) + chunk.tokens

        def own(rank: Rank) -> int:
            return tokens.get(id(rank), 0) + (rank.cache.count if decoding else 0)

        fullest = max(self.ranks, key=own)
        prefill, reach, logits = 0, 0.0, 0
        for chunk in chunks:
            if chunk.rank is fullest:
                prefill += chunk.tokens
                reach += chunk.tokens * (chunk.start + (chunk.tokens + 1) / 2)
                logits += chunk.ends_prompt
        running = sum(rank.cache.count for rank in self.ranks)
        count = fullest.cache.count if decoding else 0
        mean = sum(chunk.tokens for chunk in chunks) / self.cp + running * decoding
        batch = Batch(
            decode=count,
            decode_context=fullest.cache.tokens(self.step) / count if count else 0.0,
            prefill=prefill,
            prefill_context=reach / prefill if prefill else 0.0,
            mean_tokens=mean / len(self.ranks),
            logits=logits + count,
        )
        sequences = running * decoding + len(chunks)
        return Run(1, decoding and running > 0, batch, batch, sequences, tuple(chunks))

    def _decode_run(self, most: int | None) -> Run | None:
        """As many decode steps as pass before a request ends or a block is missing, `most` at
        most, where prompts wait."""
        ends = self._ends
        while ends and ends[0][2].end != ends[0][0]:
            heappop(ends)  # preempted since
        running = sum(rank.cache.count for rank in self.ranks)
        if not running:
            return None
        stop = min(ends[0][0], min(rank.full_at for rank in self.ranks))
        fullest = max(self.ranks, key=lambda rank: rank.cache.count)
        count = fullest.cache.count
        context = fullest.cache.tokens(self.step) / count
        steps = max(1, stop - self.step)
        if any(rank.queue.arrived for rank in self.ranks):
            steps = min(steps, self.steps_to_poll(1))
        if most is not None:
            steps = min(steps, most)
        first = Batch(count, context, 0, 0.0, running / len(self.ranks), count)
        last = first._replace(decode_context=context + steps - 1)
        return Run(steps, True, first, last, running, holds=most is not None)

    def finish(self, run: Run, steps: int) -> Done:
        """What is done after so many steps of a run."""
        if run.decodes:
            self.step += steps
        self._unpolled = 0 if run.chunks else self._unpolled + steps
        self._held = self._held + steps if run.holds else 0
        done = Done([], [])
        ends = self._ends
        while ends and ends[0][0] <= self.step:
            end, _, task, rank = heappop(ends)
            if task.end == end and task.held is not None:
                self._leave(rank, task)
                done.finished.append(task)
        for chunk in run.chunks:
            task = chunk.task
            task.cached += chunk.tokens
            task.in_flight -= chunk.tokens
            if chunk.ends_prompt:
                task.made += 1
                done.first.append(task)
                self._begin(chunk.rank, task)
                if task.made == task.output:
                    self._leave(chunk.rank, task)
                    done.finished.append(task)
        return done

    def _begin(self, rank: Rank, task: Task) -> None:
        """A prompt is in the cache, and its request joins those that decode."""
        rank.cache.sync(self.step)
        rank.queue.waiting.remove(task)  # the first: prompts end in the order they came
        task.held = rank.cache.admit(task.prompt)
        task.end = self.step + task.output - task.made
        rank.running[task.index] = task
        heappush(self._ends, (task.end, task.index, task, rank))
        self._changed(rank)

    def withdraw(self, task: Task) -> None:
        """Takes out a request that goes on elsewhere."""
        rank = next(each for each in self.ranks if each.running.get(task.index) is task)
        self._leave(rank, task)

    def _leave(self, rank: Rank, task: Task) -> None:
        rank.cache.sync(self.step)
        assert task.held is not None
        rank.cache.release(task.held)
        task.held = None
        del rank.running[task.index]
        rank.queue.blocked = False
        self._changed(rank)

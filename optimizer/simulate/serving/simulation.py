"""Requests through replicas as discrete events: arrivals, ends of runs, transfers, deaths."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import nan
from typing import NamedTuple

from optimizer.simulate.serving.arrivals import Load
from optimizer.simulate.serving.queue import Task
from optimizer.simulate.serving.replica import Replica, Running


class Span(NamedTuple):
    """One run of a lane, and its replica after it."""

    replica: int
    lane: int
    start_s: float
    end_s: float
    steps: int
    decoding: int
    prefilled: int  # prompt tokens, of all ranks
    waiting: int  # of the queues that all lanes share: told by the first
    running: int
    used_blocks: int


@dataclass
class Record:
    """What happened: seconds of each request (nan where it never came to that) and all runs."""

    arrival_s: array[float]
    first_s: array[float]
    finish_s: array[float]
    spans: list[Span] = field(default_factory=list)
    preemptions: int = 0
    lost: int = 0
    events: int = 0
    in_flight_s: float = 0.0  # integral of the requests in flight
    end_s: float = 0.0


class Entry(NamedTuple):
    """How requests enter and pass on."""

    base_s: float  # before a request is scheduled at all
    prefix_tokens: int  # of each prompt, found in the cache
    transfer_s: Callable[[int], float]  # of a prompt's cache from prefill to decode
    token_s: float = 0.0  # of a frontend, for each token that it sends out


def simulate(
    replicas: Sequence[Replica],
    load: Load,
    entry: Entry,
    deaths: Sequence[tuple[float, int]] = (),
) -> Record:
    """Runs all requests to their end; `deaths` are (seconds, replica).

    Requests go to the shortest queue among the live replicas that prefill. A dead replica's
    requests start again elsewhere; where nobody is left they are lost.
    """
    return _Simulation(replicas, load, entry, deaths).run()


class _Simulation:
    def __init__(
        self,
        replicas: Sequence[Replica],
        load: Load,
        entry: Entry,
        deaths: Sequence[tuple[float, int]],
    ) -> None:
        self.replicas, self.load, self.entry = replicas, load, entry
        count = len(load.requests)
        empty = array("d", [nan]) * count
        self.record = Record(empty[:], empty[:], empty[:])
        self.events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self.order = 0
        self.idle: dict[tuple[int, int], Replica] = {}  # lanes that may begin once all is in
        self.asked = 0  # requests of a closed loop that were sent
        self.in_flight, self.now_s = 0, 0.0
        for at, number in deaths:
            self._at(at, self._die, replicas[number])
        if load.clients is None:
            for index, request in enumerate(load.requests):
                self._at(request.arrival_s, self._ask, index)
        else:
            for _ in range(load.clients):
                self._next_client()

    def run(self) -> Record:
        events, record = self.events, self.record
        while events or self.idle:
            if self.idle and (not events or events[0][0] > self.now_s):
                self._start_idle()
                continue
            at, _, what, arguments = heappop(events)
            record.in_flight_s += self.in_flight * (at - self.now_s)
            self.now_s = at
            what(*arguments)
            record.events += 1
        record.preemptions = sum(
            lane.preemptions for replica in self.replicas for lane in replica.lanes
        )
        record.end_s = max((at for at in record.finish_s if at == at), default=self.now_s)
        return record

    def _at(self, at_s: float, what: Callable[..., None], *arguments: object) -> None:
        self.order += 1
        heappush(self.events, (at_s, self.order, what, arguments))

    def _next_client(self) -> None:
        if self.load.clients is not None and self.asked < len(self.load.requests):
            self._at(self.now_s, self._ask, self.asked)
            self.asked += 1

    def _ask(self, index: int) -> None:
        self.record.arrival_s[index] = self.now_s
        self.in_flight += 1
        request = self.load.requests[index]
        prefix = min(self.entry.prefix_tokens, request.input_tokens - 1)
        task = Task(index, request.input_tokens, request.output_tokens, prefix)
        self._at(self.now_s + self.entry.base_s, self._enter, task, "decode")

    def _enter(self, task: Task, not_role: str) -> None:
        """Queues a request at the least loaded live replica of another role than `not_role`."""
        live = [each for each in self.replicas if each.alive and each.role != not_role]
        if not live:
            self.record.lost += 1
            self.in_flight -= 1
            self._next_client()
            return
        replica = min(live, key=lambda each: each.load) if len(live) > 1 else live[0]
        index = replica.deliver(task)
        self._wake(replica)
        running = replica.active.get(0)
        if running is None or running.run.steps == 1:
            return
        lane = replica.lanes[0]  # the only one, since only then steps are joined
        rank = lane.ranks[index]
        if len(rank.queue) == 1 and rank.has_room(task):
            steps = lane.steps_to_poll(running.steps_until(self.now_s))
            if steps < running.run.steps:
                running.run.steps = steps
                running.end_s = running.start_s + running.seconds(steps)
                self._await_end(replica, 0, running)

    def _wake(self, replica: Replica) -> None:
        """Lanes that had nothing to do look again."""
        for number in range(len(replica.lanes)):
            if number not in replica.active:
                self.idle[replica.number, number] = replica

    def _start_idle(self) -> None:
        """Lanes begin when all that happens at this instant has happened."""
        idle, self.idle = self.idle, {}
        for (_, number), replica in idle.items():
            running = replica.start(number, self.now_s) if replica.alive else None
            if running is not None:
                self._await_end(replica, number, running)

    def _await_end(self, replica: Replica, number: int, running: Running) -> None:
        replica.version[number] += 1
        self._at(running.end_s, self._end, replica, number, replica.version[number])

    def _end(self, replica: Replica, number: int, version: int) -> None:
        if version != replica.version[number]:
            return  # cut short by an arrival, or dead
        running, lane = replica.active.pop(number), replica.lanes[number]
        done = lane.finish(running.run, running.run.steps)
        record, sent_s = self.record, self._sent_s(replica, running, len(done.first))
        for task in done.first:
            if record.first_s[task.index] != record.first_s[task.index]:
                record.first_s[task.index] = sent_s
        for task in done.finished:
            record.finish_s[task.index] = sent_s
            if sent_s > self.now_s:
                self._at(sent_s, self._answered)
            else:
                self._answered()
        if replica.role == "prefill":
            for task in done.first:
                if task.held is not None:
                    self._hand_over(replica, number, task)
        record.spans.append(self._span(replica, number, running))
        self.idle[replica.number, number] = replica
        if any(replica.queues):
            self._wake(replica)

    def _sent_s(self, replica: Replica, running: Running, first_tokens: int) -> float:
        """When the last token of a run has left its frontend, which sends them as they come; every
        attention rank has one of its own."""
        run, ranks = running.run, len(replica.lanes[0].ranks)
        tokens = run.steps * (run.sequences - len(run.chunks)) + first_tokens
        begin_s = max(running.start_s, replica.frontend_s)
        replica.frontend_s = max(self.now_s, begin_s + tokens / ranks * self.entry.token_s)
        return replica.frontend_s

    def _answered(self) -> None:
        self.in_flight -= 1
        self._next_client()

    def _hand_over(self, replica: Replica, number: int, task: Task) -> None:
        replica.lanes[number].withdraw(task)
        task.cached = task.prompt
        self._at(self.now_s + self.entry.transfer_s(task.prompt), self._enter, task, "prefill")

    def _die(self, replica: Replica) -> None:
        if not replica.alive:
            return
        replica.alive = False
        for number in range(len(replica.lanes)):
            replica.version[number] += 1
        replica.active.clear()
        for task in list(replica.tasks):
            task.restart(self.load.requests[task.index].input_tokens, 0)
            self._enter(task, "decode")

    def _span(self, replica: Replica, number: int, running: Running) -> Span:
        lane, run = replica.lanes[number], running.run
        return Span(
            replica.number,
            number,
            running.start_s,
            running.end_s,
            run.steps,
            run.sequences - len(run.chunks),
            sum(chunk.tokens for chunk in run.chunks),
            0 if number else sum(map(len, replica.queues)),
            sum(len(rank.running) for rank in lane.ranks),
            max(rank.cache.pool.used for rank in lane.ranks),
        )

"""Requests on their way, and the queue and cache of one attention rank."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from optimizer.simulate.serving.cache import BlockCache, Held


@dataclass(eq=False, slots=True)
class Task:
    """One request on its way: tokens to compute before it decodes, and what is done of them."""

    index: int
    prompt: int
    output: int
    cached: int = 0  # of the prompt: a prefix, transferred, or computed so far
    in_flight: int = 0  # of the prompt: being computed
    made: int = 0  # output tokens when it last began to decode
    admitted: bool = False
    held: Held | None = None
    end: int = -1  # decode step after which it is done

    def restart(self, prompt: int, made: int) -> None:
        """Its cache is lost: the prompt and what was made of the answer are computed again."""
        self.prompt, self.made, self.cached = prompt, made, 0
        self.in_flight = 0
        self.admitted, self.held, self.end = False, None, -1


@dataclass(eq=False, slots=True)
class Queue:
    """What waits for one attention rank, whichever micro-batch comes next: vLLM, SGLang and
    TensorRT-LLM keep one queue for all batches in flight."""

    arrived: list[Task] = field(default_factory=list)  # and not yet noticed
    waiting: deque[Task] = field(default_factory=deque)
    blocked: bool = False  # the head finds no blocks until something leaves

    def __len__(self) -> int:
        return len(self.arrived) + len(self.waiting)


@dataclass(eq=False, slots=True)
class Rank:
    """One attention rank in one micro-batch: its cache and queue, what runs on it, and the step
    that finds no block free."""

    cache: BlockCache
    slots: int
    queue: Queue = field(default_factory=Queue)
    running: dict[int, Task] = field(default_factory=dict)
    full_at: int = 1 << 60

    def next_prompt(self) -> Task | None:
        """The first that this rank could begin, or go on with."""
        for task in () if self.queue.blocked else self.queue.waiting:
            if task.cached + task.in_flight < task.prompt:
                return task if task.admitted or self.has_room(task) else None
        return None

    def has_room(self, task: Task) -> bool:
        if len(self.running) >= self.slots:
            return False
        return self.cache.blocks(task.prompt) <= self.cache.free

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
    made: int = 0  # output tokens when it last began to decode
    admitted: bool = False
    held: Held | None = None
    end: int = -1  # decode step after which it is done

    def restart(self, prompt: int, made: int) -> None:
        """Its cache is lost: the prompt and what was made of the answer are computed again."""
        self.prompt, self.made, self.cached = prompt, made, 0
        self.admitted, self.held, self.end = False, None, -1


@dataclass(eq=False, slots=True)
class Rank:
    """One attention rank: its cache, its queue, what runs on it, and the step that finds no block
    free."""

    cache: BlockCache
    slots: int
    arrived: list[Task] = field(default_factory=list)  # and not yet noticed
    waiting: deque[Task] = field(default_factory=deque)
    running: dict[int, Task] = field(default_factory=dict)
    blocked: bool = False  # the queue's head does not fit until something leaves
    full_at: int = 1 << 60

    @property
    def load(self) -> int:
        return len(self.arrived) + len(self.waiting) + len(self.running)

    def has_room(self, task: Task) -> bool:
        if len(self.running) >= self.slots:
            return False
        return self.cache.blocks(task.prompt) <= self.cache.free

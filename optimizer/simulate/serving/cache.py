"""The KV cache of one attention rank in blocks, stepped over many decode steps at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Held(NamedTuple):
    """A sequence in the cache: its tokens when it came, the decode steps done until then."""

    tokens: int
    since: int


@dataclass(eq=False, slots=True)
class BlockPool:
    """The blocks of one attention rank, which all its micro-batches draw from."""

    num_blocks: int
    used: int = 0


class BlockCache:
    """Blocks of `block_tokens` tokens; decode steps are counted by the caller, who calls `sync`
    before anything changes.

    A sequence takes a block whenever its tokens fill all it has. Which sequences do so in the same
    step follows from their tokens less the steps done, modulo the block: `_phases` counts them.
    """

    def __init__(self, pool: BlockPool, block_tokens: int) -> None:
        self.pool, self.block_tokens = pool, block_tokens
        self.count = 0
        self._phases = [0] * block_tokens
        self._step = 0
        self._offset = 0  # tokens of all sequences less `count` x steps done

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    @property
    def free(self) -> int:
        return self.pool.num_blocks - self.pool.used

    def tokens(self, step: int) -> int:
        """Tokens of all sequences after `step` decode steps."""
        return self._offset + self.count * step

    def admit(self, tokens: int) -> Held:
        """A sequence whose prompt has its blocks already starts to decode."""
        self.count += 1
        self._phases[(tokens - self._step) % self.block_tokens] += 1
        self._offset += tokens - self._step
        return Held(tokens, self._step)

    def release(self, held: Held) -> None:
        tokens = held.tokens + self._step - held.since
        self.pool.used -= self.blocks(tokens)
        self.count -= 1
        self._phases[(held.tokens - held.since) % self.block_tokens] -= 1
        self._offset -= held.tokens - held.since

    def needed(self, steps: int) -> int:
        """Blocks that so many further decode steps take."""
        cycles, rest = divmod(steps, self.block_tokens)
        some = sum(self._phases[-(self._step + i) % self.block_tokens] for i in range(rest))
        return cycles * self.count + some

    def steps_left(self) -> int:
        """Decode steps until a block is missing; very many where nothing decodes."""
        if not self.count:
            return 1 << 60
        cycles, free = divmod(self.free, self.count)
        steps = cycles * self.block_tokens
        for i in range(self.block_tokens):
            free -= self._phases[-(self._step + i) % self.block_tokens]
            if free < 0:
                return steps + i
        return steps + self.block_tokens - 1

    def sync(self, step: int) -> None:
        """Takes the blocks of all decode steps up to `step`."""
        if step != self._step:
            self.pool.used += self.needed(step - self._step)
            self._step = step

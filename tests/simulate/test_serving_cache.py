"""The cache in blocks against a plain count, sequence by sequence and step by step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optimizer.simulate.serving.cache import BlockCache, BlockPool

EVENTS = st.lists(
    st.tuples(st.sampled_from(["admit", "steps", "release"]), st.integers(1, 40)), max_size=30
)


@given(events=EVENTS, block_tokens=st.integers(1, 8))
def test_blocks_are_those_of_a_plain_count(
    events: list[tuple[str, int]], block_tokens: int
) -> None:
    cache, step = BlockCache(BlockPool(10_000), block_tokens), 0
    held = []  # (Held, tokens now)
    for what, amount in events:
        if what == "admit":
            cache.pool.used += cache.blocks(amount)
            held.append((cache.admit(amount), amount))
        elif what == "steps":
            step += amount
            cache.sync(step)
            held = [(each, tokens + amount) for each, tokens in held]
        elif held:
            each, _ = held.pop(amount % len(held))
            cache.release(each)
        assert cache.pool.used == sum(-(-tokens // block_tokens) for _, tokens in held)
        assert cache.tokens(step) == sum(tokens for _, tokens in held)


@given(
    prompts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    block_tokens=st.integers(1, 8),
    spare=st.integers(0, 20),
)
def test_steps_left_end_just_before_a_block_is_missing(
    prompts: list[int], block_tokens: int, spare: int
) -> None:
    needed = sum(-(-tokens // block_tokens) for tokens in prompts)
    cache = BlockCache(BlockPool(needed + spare), block_tokens)
    for tokens in prompts:
        cache.pool.used += cache.blocks(tokens)
        cache.admit(tokens)
    left = cache.steps_left()
    assert cache.needed(left) <= cache.free < cache.needed(left + 1)


def test_nothing_that_decodes_needs_no_block() -> None:
    assert BlockCache(BlockPool(0), 16).steps_left() > 10**15

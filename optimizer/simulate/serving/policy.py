"""How an engine batches, and what its host costs: configs/simulation.yaml."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

import yaml
from pydantic import Field

from optimizer.spec.data import configs_root
from optimizer.spec.frozen import Count, CountOrZero, Frozen

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Engine(Frozen):
    """One engine's batching; base_s is what a request spends before it is scheduled at all."""

    policy: Literal["mixed", "prefill_first"]
    block_tokens: Count  # of one block of the cache
    step_tokens: Count  # of one step of one rank, where the plan names no prefill chunk
    base_s: Seconds
    token_s: Seconds = 0.0  # of the frontend, for each token that it sends out
    align_steps: CountOrZero = 0  # that a prompt waits for prompts of the other attention ranks
    poll_steps: Count = 1  # decode steps between two looks at what has arrived


class Host(Frozen):
    """What the engine's own process needs for each sequence of a step."""

    sequence_s: Seconds

    def seconds(self, sequences: float) -> float:
        return self.sequence_s * sequences


class Settings(Frozen):
    engines: dict[str, Engine]
    host: Host

    def engine(self, name: str) -> Engine:
        """An engine's batching; one that is not listed batches as any."""
        return self.engines.get(name, self.engines["any"])


@cache
def settings() -> Settings:
    """What ships with the package."""
    path = configs_root() / "simulation.yaml"
    return Settings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))

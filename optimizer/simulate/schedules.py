"""Pipeline schedules: in which order a stage runs the passes of its micro-batches.

1F1B (Narayanan et al., 2019), interleaved over several chunks a stage (Narayanan et al., 2021),
ZB-H1 of zero bubble (Qi et al., 2023), and forward passes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

PassKind = Literal["forward", "backward", "weight_gradient"]


class Pass(NamedTuple):
    """One pass of one micro-batch over one of the stage's chunks (0 ... vp - 1).

    backward makes the gradients of inputs and weights, or of inputs alone where the schedule has
    weight_gradient passes.
    """

    kind: PassKind
    micro_batch: int
    chunk: int


Order = tuple[Pass, ...]


def forward_only(stage: int, stages: int, chunks: int, micro_batches: int) -> Order:
    """Inference: each micro-batch in turn."""
    return tuple(Pass("forward", number, 0) for number in range(micro_batches))


def one_f_one_b(stage: int, stages: int, chunks: int, micro_batches: int) -> Order:
    """As many forwards ahead as there are stages behind, then backward and forward in turn."""
    forwards = [Pass("forward", number, 0) for number in range(micro_batches)]
    backwards = [Pass("backward", number, 0) for number in range(micro_batches)]
    return _alternating(forwards, backwards, stages - stage - 1)


def interleaved(stage: int, stages: int, chunks: int, micro_batches: int) -> Order:
    """Groups of `stages` micro-batches go over the first chunks, then over the second ones ..."""
    group = stages * chunks
    forwards, backwards = [], []
    for number in range(micro_batches * chunks):
        start = number // group * stages
        size = min(stages, micro_batches - start)  # of this group, the last may be smaller
        chunk, place = divmod(number % group, size)
        forwards.append(Pass("forward", start + place, chunk))
        backwards.append(Pass("backward", start + place, chunks - 1 - chunk))
    return _alternating(forwards, backwards, 2 * (stages - stage - 1) + (chunks - 1) * stages)


def _alternating(forwards: list[Pass], backwards: list[Pass], ahead: int) -> Order:
    ahead = min(ahead, len(forwards))
    order = forwards[:ahead]
    for forward, backward in zip(forwards[ahead:], backwards, strict=False):
        order += [forward, backward]
    return tuple(order + backwards[len(forwards) - ahead :])


def zero_bubble(stage: int, stages: int, chunks: int, micro_batches: int) -> Order:
    """ZB-H1: 1F1B whose weight gradients come `stage` micro-batches late, so that the last stages
    fill the drain with them; none keeps more micro-batches than 1F1B's first stage."""
    ahead = min(stages - stage - 1, micro_batches)
    order = [Pass("forward", number, 0) for number in range(ahead)]
    for number in range(micro_batches):
        if ahead + number < micro_batches:
            order.append(Pass("forward", ahead + number, 0))
        order.append(Pass("backward", number, 0))
        if number >= stage:
            order.append(Pass("weight_gradient", number - stage, 0))
    late = range(max(0, micro_batches - stage), micro_batches)
    return (*order, *(Pass("weight_gradient", number, 0) for number in late))


SCHEDULES: Mapping[str, Callable[[int, int, int, int], Order]] = {
    "forward": forward_only,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "zero_bubble": zero_bubble,
}

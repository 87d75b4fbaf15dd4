"""Seconds of one layer of each type and of both ends, with all that happens around a layer:
launches, and the gathering and scattering of fully sharded parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.cost.training.layer_seconds import Seconds, overlapped, seconds_of
from optimizer.cost.training.layouts import FULL, PARAMETERS, Column, Floats, TrainingLayouts
from optimizer.cost.training.links import ring_s
from optimizer.cost.training.rates import Rates
from optimizer.cost.training.work import Layer, Lowered

PARTS = ("forward", "backward", "recompute", "tp", "ep", "cp", "fsdp", "launch")


@dataclass(frozen=True)
class Piece:
    """One layer or end, one micro-batch, one rank [n]. forward_s and backward_s hold everything and
    are the sum of `parts` (seconds by what they wait for, keys PARTS); weight_gradient_s is the
    share of backward_s that a zero-bubble schedule may put off."""

    count: Column
    forward_s: Floats
    backward_s: Floats
    weight_gradient_s: Floats
    parts: dict[str, Floats]
    dense_parameters: Floats
    expert_parameters: Floats

    @property
    def both_s(self) -> Floats:
        return self.forward_s + self.backward_s


@dataclass(frozen=True)
class Pieces:
    """What stages are made of: `layers` by type in the order of the model's layer_types."""

    layers: tuple[Piece, ...]
    head: Piece
    embedding: Piece
    mtp: Piece  # all MTP layers, their passes through the head included; zero without them
    lowered: Lowered


def pieces_of(lowered: Lowered, layouts: TrainingLayouts, rates: Rates) -> Pieces:
    """Price every piece of each layout, row by row."""
    layers = tuple(
        layer_piece(layer, seconds_of(layer.works, layouts, rates, lowered), layouts, rates)
        for layer in lowered.layers
    )
    ends = (
        seconds_of(lowered.head, layouts, rates, lowered),
        seconds_of(lowered.embedding, layouts, rates, lowered),
    )
    return assembled(lowered, layers, *ends)


def assembled(
    lowered: Lowered, layers: tuple[Piece, ...], head: Seconds, embedding: Seconds
) -> Pieces:
    """The pieces of a model from its layers' and its ends' prices."""
    table = lowered.table_parameters
    head_piece, embedding_piece = _end(head, table), _end(embedding, table)
    copied = layers[lowered.last]
    many = lowered.mtp_layers
    mtp = Piece(
        many,
        many * (copied.forward_s + head_piece.forward_s),
        many * (copied.backward_s + head_piece.backward_s),
        many * (copied.weight_gradient_s + head_piece.weight_gradient_s),
        {name: many * (copied.parts[name] + head_piece.parts[name]) for name in PARTS},
        many * copied.dense_parameters,
        many * copied.expert_parameters,
    )
    return Pieces(layers, head_piece, embedding_piece, mtp, lowered)


def _end(seconds: Seconds, parameters: Floats) -> Piece:
    nothing = np.zeros_like(seconds.forward)
    parts = dict.fromkeys(PARTS, nothing) | {
        "forward": seconds.all_forward,
        "backward": seconds.all_backward,
    }
    return Piece(
        1.0,
        seconds.all_forward,
        seconds.all_backward,
        seconds.weight_gradient,
        parts,
        parameters,
        nothing,
    )


def layer_piece(layer: Layer, seconds: Seconds, layouts: TrainingLayouts, rates: Rates) -> Piece:
    """A layer with its launches and, fully sharded, its parameters' all-gathers and gradients'
    reduce-scatter behind its own work (fsdp_exposed of the shorter of the two shows).

    With pipeline stages gathered weights stay for the whole step, so that a micro-batch bears its
    share. Unbalanced recomputation takes recompute_share of the layers in the mean.
    """
    again = layouts.recompute_share * ((layouts.recompute & FULL) > 0)
    recompute = layouts.recompute_share * seconds.recompute
    forward, backward = seconds.all_forward, seconds.all_backward + recompute
    plain = forward + backward
    gather = sharded_gather_s(layer, layouts, rates)
    regather = np.where(layouts.sharding >= PARAMETERS, 2.0, 1.0)
    sharded = layouts.fully_sharded
    forward = np.where(sharded, _behind(forward, gather, rates.fsdp_exposed), forward)
    backward = np.where(sharded, _behind(backward, gather * regather, rates.fsdp_exposed), backward)
    worked = forward + backward
    host = rates.host_layer_s + rates.host_expert_s * layer.local_experts
    host = (
        np.where(layouts.bits < 16, rates.host_low, 1.0)
        * host
        * (np.asarray(layer.local_experts) > 0)
    )
    passes = 2 + again
    forward = overlapped(forward, host) + rates.gap_s
    backward = overlapped(backward, passes * host) + passes * rates.gap_s
    parts = {
        "forward": seconds.forward,
        "backward": seconds.input_gradient + seconds.weight_gradient,
        "recompute": recompute,
        "tp": seconds.forward_tp + seconds.backward_tp,
        "ep": seconds.forward_ep + seconds.backward_ep,
        "cp": seconds.forward_cp + seconds.backward_cp,
        "fsdp": worked - plain,
        "launch": forward + backward - worked,
    }
    return Piece(
        layer.count,
        forward,
        backward,
        seconds.weight_gradient,
        parts,
        layer.dense_parameters,
        layer.expert_parameters,
    )


def sharded_gather_s(layer: Layer, layouts: TrainingLayouts, rates: Rates) -> Floats:
    """All-gather of one layer's 16-bit parameters over its shards (experts over edp)."""
    dense = ring_s(layouts, rates, "shard", 2 * layer.dense_parameters)
    experts = ring_s(layouts, rates, "edp", 2 * layer.expert_parameters)
    return (dense + experts) / np.where(layouts.pp > 1, layouts.micro_batches, 1)


def _behind(work: Floats, communication: Floats, exposed: Column) -> Floats:
    return overlapped(work, communication) + exposed * np.minimum(communication, work)

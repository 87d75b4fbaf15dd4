"""Training memory of a layout in plain arithmetic, for reports that leave the phase open."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from optimizer.audit.amounts import show
from optimizer.audit.case import Case
from optimizer.audit.deriving import Derived
from optimizer.spec.linears import expert_parameters, total_parameters
from optimizer.spec.model import GroupedQueryAttention

STATE_BYTES = 16  # 16-bit weight and gradient, 32-bit master, two Adam moments (ZeRO, 2020)
HELD = "every layer's activations kept"
SCORES = "every layer's activations and attention scores kept"
RECOMPUTED = "full recompute"
WHOLE_BATCH = "every GPU runs the whole batch"


def state_bytes(case: Case) -> tuple[float, str]:
    """Weights, gradients and Adam of the parameters that one GPU holds, unsharded."""
    layout, model = case.layout, case.model
    experts = expert_parameters(model) / (layout.ep * layout.etp * layout.pp)
    dense = (total_parameters(model) - expert_parameters(model)) / (layout.tp * layout.pp)
    held = experts + dense
    text = (
        f"({expert_parameters(model):,} expert parameters / {layout.ep * layout.etp * layout.pp} "
        f"+ {total_parameters(model) - expert_parameters(model):,} others "
        f"/ {layout.tp * layout.pp}) x {STATE_BYTES} B = {STATE_BYTES * held / 1e9:,.4g} GB"
    )
    return STATE_BYTES * held, text


def layer_bytes_per_token(case: Case, scores: bool) -> tuple[float, float]:
    """(attention's and norms', experts') activation bytes of a token in one layer: 15 h and, where
    the scores are kept, 5 a s (Korthikanti et al., 2022, equation 1, 16 bits); each routed copy its
    input and the FFN's intermediate results. Leaves out dropout masks of the FFN."""
    model = case.model
    layer = model.layer_types[model.layer_names[0]]
    hidden = 15.0 * model.hidden_size
    if scores and isinstance(layer.attention, GroupedQueryAttention):
        hidden += 5.0 * layer.attention.num_heads * case.seq_len
    moe = model.moe
    if moe is None:
        return hidden, 19.0 * model.hidden_size
    gates = 3 if moe.gated else 2
    inner = gates * moe.intermediate_size / case.layout.etp
    return hidden, moe.num_experts_per_token * 2.0 * (model.hidden_size + inner)


def training_memory(case: Case) -> Iterator[Derived]:
    """States and activations: the batch shared by the attention ranks or whole on every GPU, the
    scores kept or not, everything recomputed or nothing."""
    layout, model = case.layout, case.model
    states, states_text = state_bytes(case)
    layers = ceil(model.num_layers / layout.pp)
    tokens = case.batch * case.seq_len
    sharing = layout.dp * layout.cp * layout.replicas
    shared = f"the batch shared by {sharing} ranks" if sharing > 1 else WHOLE_BATCH
    for where, own, routed in (
        (shared, tokens / sharing, tokens / layout.replicas / layout.ep),
        (WHOLE_BATCH, tokens, tokens / layout.ep),
    )[: 1 if sharing == 1 else 2]:
        for kept in (HELD, SCORES, RECOMPUTED):
            dense, experts = layer_bytes_per_token(case, kept == SCORES)
            layer = own * dense / layout.tp + routed * experts
            inputs = layers * own * 2.0 * model.hidden_size
            alive = inputs + layer if kept == RECOMPUTED else layers * layer
            total = states + alive
            text = (
                f"training, {where}, {kept}: states {states_text} + activations "
                f"{alive / 1e9:,.4g} GB = {show(total, 'bytes')}"
            )
            labels = ("training", where, kept)
            departs = tuple(label for label in labels[1:] if label not in (shared, HELD))
            if case.phase is None:
                departs = labels
            yield Derived(total, text, labels, departs)

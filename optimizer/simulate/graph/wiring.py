"""Which operator of a layer reads which: its data flow, and the order in which a rank issues it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimizer.errors import PlanError

INPUT = "input"
_FROM_HIDDEN = (
    "q_proj",
    "k_proj",
    "v_proj",
    "q_a_proj",
    "kv_a_proj",
    "qk_proj",
    "z_proj",
    "ba_proj",
    "indexer_k_proj",
    "indexer_weights",
)
_ATTENTION = ("gqa_attention", "mla_attention", "linear_attention")

# Operator -> what it reads, in the order of issue. Where none of what it reads is there, it reads
# what those would have read: no all-reduce on one rank, no rounding of 16-bit inputs.
READS: Mapping[str, tuple[str, ...]] = {
    "attention_norms": (INPUT,),
    "attention_projections_rounding": ("attention_norms",),
    **dict.fromkeys(_FROM_HIDDEN, ("attention_projections_rounding",)),
    **dict.fromkeys(("q_b_proj", "indexer_q_proj"), ("q_a_proj",)),
    "kv_b_proj": ("kv_a_proj",),
    "cp_ring": ("k_proj", "v_proj", "kv_b_proj", "qk_proj"),
    **dict.fromkeys(
        _ATTENTION, (*_FROM_HIDDEN, "q_b_proj", "indexer_q_proj", "kv_b_proj", "cp_ring")
    ),
    "o_proj": _ATTENTION,
    "attention_all_reduce": ("o_proj",),
    "ffn_norms": ("attention_all_reduce",),
    "ffn_rounding": ("ffn_norms",),
    "gate": ("ffn_rounding",),
    "up": ("ffn_rounding",),
    "ffn_activation": ("gate", "up"),
    "down": ("ffn_activation",),
    "ffn_all_reduce": ("down",),
    "router": ("ffn_norms",),
    "shared_expert_gate": ("ffn_norms",),
    "routing": ("router",),
    "expert_dispatch": ("routing",),
    "shared_experts_rounding": ("ffn_norms",),
    "shared_gate": ("shared_experts_rounding",),
    "shared_up": ("shared_experts_rounding",),
    "shared_activation": ("shared_gate", "shared_up"),
    "shared_down": ("shared_activation",),
    "expert_gate": ("expert_dispatch",),
    "expert_up": ("expert_dispatch",),
    "expert_rows": ("expert_gate", "expert_up"),
    "expert_down": ("expert_rows",),
    "expert_combine": ("expert_down",),
    "expert_all_gather": ("expert_combine",),
    "expert_all_reduce": ("expert_down", "shared_down"),
    "embedding": (INPUT,),
    "embedding_all_reduce": ("embedding",),
    "head_rounding": (INPUT,),
    "head": ("head_rounding",),
    "logits_all_gather": ("head",),
    "sampling": ("logits_all_gather",),
}
_PLACE = {name: place for place, name in enumerate(READS)}


def members(name: str) -> tuple[str, ...]:
    """The matrices that one product multiplies: "gate/up" is both."""
    return tuple(name.split("/"))


def issue_order(names: Sequence[str], part: str) -> list[str]:
    """The operators of a part in the order in which a rank issues them."""
    single = [each for name in names for each in members(name)]
    if unknown := [each for each in single if each not in _PLACE]:
        raise PlanError(
            f"operator table, {part}: {unknown[0][:60]!r} is no operator that the execution graph "
            "knows; plan again with this version"
        )
    if len(set(single)) != len(single):
        twice = next(each for each in single if single.count(each) > 1)
        raise PlanError(f"operator table, {part}: {twice} stands twice")
    return sorted(names, key=lambda name: min(_PLACE[each] for each in members(name)))


def reads(name: str, present: Sequence[str]) -> tuple[str, ...]:
    """What an operator reads among those present; () is the part's own input."""
    holder = {each: whole for whole in present for each in members(whole)}
    found = [whole for each in members(name) for whole in _behind(each, holder)]
    return tuple(dict.fromkeys(whole for whole in found if whole != name))


def _behind(single: str, holder: Mapping[str, str]) -> list[str]:
    if READS[single] == (INPUT,):
        return []
    found = [holder[each] for each in READS[single] if each in holder]
    return found or [whole for missing in READS[single] for whole in _behind(missing, holder)]

"""A language model as the planner sees it: what each layer holds, in which number formats."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from optimizer.spec.formats import Format
from optimizer.spec.frozen import Assumption, Count, CountOrZero, Frozen, Name


class GroupedQueryAttention(Frozen):
    """Softmax attention; multi-head when num_kv_heads = num_heads (Ainslie et al., 2023)."""

    kind: Literal["gqa"] = "gqa"
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count
    window: Count | None = None  # sliding window, tokens
    chunk: Count | None = None  # attention inside fixed chunks of so many tokens (Llama 4)
    bias: bool = False  # on q, k, v and output projections
    qkv_bias: bool = False  # on q, k, v only (Qwen2)
    qk_norm: bool = False  # one weight a head_dim element, for q and for k
    qk_norm_full: bool = False  # normalised over all heads at once (MiniMax)
    sinks: bool = False  # one learned logit a head (gpt-oss)
    output_gate: bool = False  # q projection carries a gate of the same size (Qwen3.5)

    @model_validator(mode="after")
    def _heads_group(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )
        return self


class Indexer(Frozen):
    """The sparse-attention indexer of DeepSeek-V3.2: picks top_k tokens for each query."""

    num_heads: Count
    head_dim: Count
    top_k: Count


class LatentAttention(Frozen):
    """Multi-head latent attention (DeepSeek-V2, 2024); q_lora_rank None: q projected directly."""

    kind: Literal["mla"] = "mla"
    num_heads: Count
    q_lora_rank: Count | None = None
    kv_lora_rank: Count
    qk_nope_head_dim: Count
    qk_rope_head_dim: Count
    v_head_dim: Count
    indexer: Indexer | None = None


class LinearAttention(Frozen):
    """Gated delta net (Yang et al., 2024): a state a sequence instead of a cache a token."""

    kind: Literal["linear"] = "linear"
    num_key_heads: Count
    num_value_heads: Count
    key_head_dim: Count
    value_head_dim: Count
    conv_kernel: Count = 4


Attention = Annotated[
    GroupedQueryAttention | LatentAttention | LinearAttention, Field(discriminator="kind")
]


class DenseFfn(Frozen):
    kind: Literal["dense"] = "dense"
    intermediate_size: Count
    gated: bool = True
    bias: bool = False


class MoeFfn(Frozen):
    """Routed experts, each gated or plain, and shared experts that every token crosses."""

    kind: Literal["moe"] = "moe"
    num_experts: Count
    num_experts_per_token: Count
    intermediate_size: Count  # of one routed expert
    shared_intermediate_size: CountOrZero = 0  # of all shared experts together
    shared_gate: bool = False  # a hidden -> 1 gate on the shared expert (Qwen)
    gated: bool = True
    bias: bool = False  # on experts and router (gpt-oss)
    router_correction: bool = False  # one bias an expert, for balancing (DeepSeek-V3)

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.num_experts_per_token > self.num_experts:
            raise ValueError(
                f"num_experts_per_token {self.num_experts_per_token} is more than the "
                f"{self.num_experts} experts there are"
            )
        return self


Ffn = Annotated[DenseFfn | MoeFfn, Field(discriminator="kind")]


class LayerType(Frozen):
    attention: Attention
    ffn: Ffn


class LayerRun(Frozen):
    """The named layer types, one after the other, `repeat` times."""

    types: tuple[Name, ...] = Field(min_length=1)
    repeat: Count = 1


class Precision(Frozen):
    """The number format of each part; activations decide what the tensor cores multiply in."""

    attention: Format = "bf16"
    ffn: Format = "bf16"
    shared_experts: Format = "bf16"
    experts: Format = "bf16"
    router: Format = "bf16"
    embedding: Format = "bf16"
    head: Format = "bf16"
    norm: Format = "bf16"
    kv_cache: Literal["fp32", "bf16", "fp16", "fp8", "int8"] = "bf16"
    activations: Literal["fp32", "bf16", "fp16", "fp8", "int8"] = "bf16"


class ExtraWeights(Frozen):
    """Weights outside the decoder (a vision encoder), kept whole on every rank of stage 0."""

    name: Name
    parameters: Count
    format: Format = "bf16"


class Mtp(Frozen):
    """Multi-token-prediction layers: a copy of the last layer and a 2h x h projection each."""

    num_layers: Count
    used: bool = False  # held in memory only where the engine runs it


class ModelSpec(Frozen):
    """A decoder: layer types, the order they run in, vocabulary, and number formats."""

    name: Name
    hidden_size: Count
    vocab_size: Count
    tied_embeddings: bool = False
    layer_types: dict[Name, LayerType] = Field(min_length=1)
    layers: tuple[LayerRun, ...] = Field(min_length=1)
    mtp: Mtp | None = None
    extra_weights: tuple[ExtraWeights, ...] = ()
    max_context: Count | None = None
    precision: Precision = Precision()
    assumptions: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()  # what the source file says that costs neither bytes nor time

    @model_validator(mode="after")
    def _layers_are_known(self) -> Self:
        named = {name for run in self.layers for name in run.types}
        unknown = sorted(named - set(self.layer_types))
        if unknown:
            raise ValueError(
                f"layers names {', '.join(unknown)}; known are {', '.join(self.layer_types)}"
            )
        if sum(len(run.types) * run.repeat for run in self.layers) > 10_000:
            raise ValueError("more than 10,000 layers")
        return self

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """The type of each layer, in order."""
        return tuple(name for run in self.layers for name in run.types * run.repeat)

    @property
    def num_layers(self) -> int:
        return len(self.layer_names)

    @cached_property
    def moe(self) -> MoeFfn | None:
        """The MoE layer with the most experts, or None when the model is dense."""
        found = [kind.ffn for kind in self.layer_types.values() if kind.ffn.kind == "moe"]
        return max(found, key=lambda ffn: ffn.num_experts, default=None)

    def with_precision(self, precision: Precision) -> ModelSpec:
        return self.model_copy(update={"precision": precision})

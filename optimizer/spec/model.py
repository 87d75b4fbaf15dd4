"""A language model as the planner sees it: what each layer holds, in which number formats."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from optimizer.spec.formats import Format
from optimizer.spec.frozen import Assumption, Count, CountOrZero, Frozen, Name, Size, wrong

MAX_LAYERS = 1_000
MAX_EXPERTS = 1_000_000  # of all layers together


class GroupedQueryAttention(Frozen):
    """Softmax attention; multi-head when num_kv_heads = num_heads (Ainslie et al., 2023)."""

    kind: Literal["gqa"] = "gqa"
    num_heads: Size
    num_kv_heads: Size
    head_dim: Size
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
            raise wrong(
                f"must divide the {self.num_heads} heads, and {self.num_kv_heads} does not",
                "num_kv_heads",
            )
        return self


class Indexer(Frozen):
    """The sparse-attention indexer of DeepSeek-V3.2: picks top_k tokens for each query."""

    num_heads: Size
    head_dim: Size
    top_k: Count


class LatentAttention(Frozen):
    """Multi-head latent attention (DeepSeek-V2, 2024); q_lora_rank None: q projected directly."""

    kind: Literal["mla"] = "mla"
    num_heads: Size
    q_lora_rank: Size | None = None
    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Size
    indexer: Indexer | None = None


class LinearAttention(Frozen):
    """Gated delta net (Yang et al., 2024): a state a sequence instead of a cache a token."""

    kind: Literal["linear"] = "linear"
    num_key_heads: Size
    num_value_heads: Size
    key_head_dim: Size
    value_head_dim: Size
    conv_kernel: Size = 4


Attention = Annotated[
    GroupedQueryAttention | LatentAttention | LinearAttention, Field(discriminator="kind")
]


class DenseFfn(Frozen):
    kind: Literal["dense"] = "dense"
    intermediate_size: Size
    gated: bool = True
    bias: bool = False


class MoeFfn(Frozen):
    """Routed experts, each gated or plain, and shared experts that every token crosses."""

    kind: Literal["moe"] = "moe"
    num_experts: Size
    num_experts_per_token: Size
    intermediate_size: Size  # of one routed expert
    shared_intermediate_size: CountOrZero = 0  # of all shared experts together
    shared_gate: bool = False  # a hidden -> 1 gate on the shared expert (Qwen)
    gated: bool = True
    bias: bool = False  # on experts and router (gpt-oss)
    router_correction: bool = False  # one bias an expert, for balancing (DeepSeek-V3)

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.num_experts_per_token > self.num_experts:
            raise wrong(
                f"is {self.num_experts_per_token}, more than the {self.num_experts} experts",
                "num_experts_per_token",
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
    hidden_size: Size
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
            raise wrong(
                f"names {', '.join(unknown[:5])}; layer_types has {', '.join(self.layer_types)}",
                "layers",
            )
        if sum(len(run.types) * run.repeat for run in self.layers) > MAX_LAYERS:
            raise wrong(f"has more than {MAX_LAYERS:,} layers", "layers")
        experts = sum(
            kind.ffn.num_experts
            for name in self.layer_names
            if isinstance((kind := self.layer_types[name]).ffn, MoeFfn)
        )
        if experts > MAX_EXPERTS:
            raise wrong(
                f"hold {experts:,} experts in all; more than {MAX_EXPERTS:,} are refused", "layers"
            )
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

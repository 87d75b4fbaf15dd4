"""LoRA slots that vLLM takes from every GPU at its start, used or not (vllm/lora/layers)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from optimizer.audit.launch.flags import Settings
from optimizer.cost.stages import Stage
from optimizer.operators.operator import ACTIVATION_BYTES
from optimizer.spec.linears import Linear, attention_linears, ffn_linears
from optimizer.spec.model import LayerType, ModelSpec

SLOTS, RANK = 1, 16  # --max-loras, --max-lora-rank where nothing is said


class Adapters(NamedTuple):
    """So many slots of a rank; `cut` over the tensor ranks in full, or by the layers' own cut."""

    slots: int
    rank: int
    cut: bool

    def stage_bytes(self, model: ModelSpec, stage: Stage, tp: int) -> float:
        """Of a tensor rank: A is rank x inputs, B is outputs x rank. Where outputs are cut every
        rank has all of A, where inputs are cut all of B. Left out: routed experts, the head."""
        kinds = zip(stage.layers, model.layer_types.values(), strict=True)
        width = sum(
            count * self._width(linear, tp)
            for count, layer in kinds
            for linear in _adapted(layer, model.hidden_size)
        )
        return self.slots * self.rank * ACTIVATION_BYTES * width

    def _width(self, linear: Linear, tp: int) -> float:
        inputs, outputs = float(linear.inputs), float(linear.outputs)
        if linear.split == "outputs" or self.cut:
            outputs /= tp
        if linear.split == "inputs" or self.cut:
            inputs /= tp
        return inputs + outputs


def adapters_of(settings: Settings) -> Adapters | None:
    """The slots that a command asks for."""
    if not settings.switch("lora"):
        return None
    return Adapters(
        settings.count("lora_slots", SLOTS),
        settings.count("lora_rank", RANK),
        settings.switch("lora_cut"),
    )


def _adapted(layer: LayerType, hidden: int) -> Iterator[Linear]:
    """The matrices that adapters stand beside."""
    for linear in (*attention_linears(layer.attention, hidden), *ffn_linears(layer.ffn, hidden)):
        if linear.gemm and linear.part in ("attention", "ffn", "shared_experts"):
            yield linear

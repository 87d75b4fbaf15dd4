"""placement.json, and the same placement as SGLang, TensorRT-LLM and vLLM read it.

Rows of a map are the layers that have experts; engines that count all layers of the model are told
where those stand by `moe_layers` (DeepSeek-V3: 3 to 60 of 61).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Map = Sequence[Sequence[int]]  # [layers, slots], the expert of each slot


def expert_files(
    document: Mapping[str, Any],
    moe_layers: Sequence[int] | None = None,
    num_layers: int | None = None,
) -> dict[str, str]:
    """Every form of a placement, {file name: text}; all layers are MoE without `moe_layers`."""
    placed, experts = document["physical_to_logical_map"], len(document["loads"][0])
    layers = range(len(placed)) if moe_layers is None else moe_layers
    total = max(layers) + 1 if num_layers is None else num_layers
    return {
        "placement.json": placement_json(document),
        "sglang_expert_location.json": sglang_expert_location(placed, experts, layers, total),
        "trtllm_moe_load_balancer.yaml": tensorrt_llm_load_balancer(placed, layers),
        "vllm_expert_map.json": vllm_expert_map(placed),
    }


def placement_json(document: Mapping[str, Any]) -> str:
    """The document with a line for each layer of each list: two placements can be diffed."""
    entries = []
    for key, value in document.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
            rows = ",\n  ".join(json.dumps(row, allow_nan=False) for row in value)
            text = f"[\n  {rows}\n ]"
        entries.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def sglang_expert_location(
    placed: Map, experts: int, moe_layers: Sequence[int], num_layers: int
) -> str:
    """For `--init-expert-location FILE.json` (SGLang 0.5): all layers of the model, dense ones too.

    SGLang passes every key of the file on as an argument, so there is only the map; a dense layer's
    row is never used and holds the experts in order.
    """
    slots = len(placed[0])
    rows = [[slot % experts for slot in range(slots)] for _ in range(num_layers)]
    for layer, row in zip(moe_layers, placed, strict=True):
        rows[layer] = list(row)
    return '{"physical_to_logical_map": ' + _rows(rows) + "}\n"


def tensorrt_llm_load_balancer(placed: Map, moe_layers: Sequence[int]) -> str:
    """YAML for TensorRT-LLM's extra LLM API options: static assignments by layer of the model."""
    lines = [
        "moe_config:",
        "  load_balancer:",
        f"    num_slots: {len(placed[0])}",
        "    layer_updates_per_iter: 0",
        "    initial_global_assignments:",
    ]
    for layer, row in zip(moe_layers, placed, strict=True):
        lines.append(f"      {layer}: {json.dumps(list(row))}")
    return "\n".join(lines) + "\n"


def vllm_expert_map(placed: Map) -> str:
    """For `eplb_config.initial_expert_map_path` (vllm#49572): the slots of each MoE layer."""
    return _rows([list(row) for row in placed]) + "\n"


def _rows(rows: Sequence[Sequence[int]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"

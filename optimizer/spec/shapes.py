"""A model from columns of a table: the few figures that published runs state of their models."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from optimizer.errors import SpecError
from optimizer.spec.model import (
    DenseFfn,
    GroupedQueryAttention,
    LayerRun,
    LayerType,
    ModelSpec,
    MoeFfn,
)

COLUMNS = (
    "layers",
    "hidden",
    "ffn_hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "vocab",
    "experts",
    "topk",
    "moe_ffn_hidden",
    "shared_experts",
    "dense_layers",
    "tied",
)
NEEDED = ("layers", "hidden", "heads", "vocab")


def model_from_shape(name: str, shape: Mapping[str, float]) -> ModelSpec:
    """Grouped-query attention and gated FFNs of the stated sizes, in 16 bits.

    `shape` holds the COLUMNS that are stated; kv_heads is heads, head_dim is hidden / heads and
    ffn_hidden 4 x hidden where they are not. With `experts` every layer but the first dense_layers
    is routed; shared_experts counts experts of moe_ffn_hidden.
    """
    for needed in NEEDED:
        if needed not in shape:
            raise SpecError(f"the shape of {name or 'a model'} lacks {needed}")
    stated = {key: int(value) for key, value in shape.items()}
    layers, hidden, heads = stated["layers"], stated["hidden"], max(1, stated["heads"])
    try:
        attention = GroupedQueryAttention(
            num_heads=heads,
            num_kv_heads=stated.get("kv_heads", heads),
            head_dim=stated.get("head_dim", hidden // heads),
        )
        dense = DenseFfn(intermediate_size=stated.get("ffn_hidden", 4 * hidden))
        types = {"dense": LayerType(attention=attention, ffn=dense)}
        runs = [LayerRun(types=("dense",), repeat=layers)]
        if stated.get("experts", 0) > 1:
            size = stated.get("moe_ffn_hidden", dense.intermediate_size)
            ffn = MoeFfn(
                num_experts=stated["experts"],
                num_experts_per_token=stated.get("topk", 1),
                intermediate_size=size,
                shared_intermediate_size=size * stated.get("shared_experts", 0),
            )
            types["moe"] = LayerType(attention=attention, ffn=ffn)
            leading = stated.get("dense_layers", 0)
            runs = [LayerRun(types=("dense",), repeat=leading)] if leading else []
            runs.append(LayerRun(types=("moe",), repeat=layers - leading))
        return ModelSpec(
            name=name or "shape",
            hidden_size=hidden,
            vocab_size=stated["vocab"],
            tied_embeddings=bool(stated.get("tied", 0)),
            layer_types={
                key: value for key, value in types.items() if any(key in run.types for run in runs)
            },
            layers=tuple(runs),
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"{part}: " for part in first["loc"][-1:])
        raise SpecError(f"the shape of {name or 'a model'}: {key}{first['msg']}") from error

"""Vision encoders beside the decoder: their parameters, estimated from the shape of a ViT."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimizer.spec.huggingface.fields import Fields


class Encoder(NamedTuple):
    parameters: int
    how: str


def vision_encoder(fields: Fields, text_hidden: int) -> Encoder | None:
    """Blocks of attention and a plain MLP, patch and position embeddings, and a merging projector.

    Dosovitskiy et al. (2021) for the blocks, a two-layer merger over merged patches (Qwen2-VL) for
    the projector; leaves out norms, and biases (0.1 %).
    """
    depth = fields.whole("depth", "num_hidden_layers", "vt_num_hidden_layers", most=10_000)
    hidden = fields.whole("hidden_size", "vt_hidden_size", most=10**6)
    size = fields.whole("intermediate_size", "vt_intermediate_size", most=10**7)
    if depth is None or hidden is None:
        return None
    size = size or 4 * hidden
    patch = fields.whole("patch_size", most=10_000) or 14
    channels = fields.whole("in_channels", "num_channels", most=10_000) or 3
    frames = fields.whole("temporal_patch_size", most=10_000) or 1
    merge = _merge(fields)
    positions = fields.whole("num_position_embeddings") or (
        (fields.whole("init_pos_emb_height") or 0) * (fields.whole("init_pos_emb_width") or 0)
    )
    out = fields.whole("out_hidden_size", "text_hidden_size") or text_hidden
    blocks = depth * (4 * hidden * hidden + 2 * hidden * size)
    embeddings = hidden * (channels * frames * patch * patch + positions)
    merged = hidden * merge
    projector = merged * merged + merged * out
    return Encoder(
        blocks + embeddings + projector,
        f"{depth} blocks of 4 x {hidden}^2 + 2 x {hidden} x {size}, patch and position "
        f"embeddings, and a projector {merged} -> {merged} -> {out}",
    )


def _merge(fields: Fields) -> int:
    """Patches that the projector merges into one token."""
    kernel: Any = fields.get("merge_kernel_size")
    if isinstance(kernel, list) and all(
        isinstance(side, int) and 0 < side < 100 for side in kernel
    ):
        product = 1
        for side in kernel[:3]:
            product *= side
        return product
    side = fields.whole("spatial_merge_size", most=100) or 1
    return side * side

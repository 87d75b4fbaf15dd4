"""Weights of every stage, to the byte, from the embedded specs."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, count, degrees, layer_types, redundant_experts
from optimizer.verify.finding import Outcome, equal
from optimizer.verify.matrices import Matrix, layer_matrices, matrix_bytes, stored_bytes, up


def stage_layers(deployment: Json, model: Json) -> list[list[str]]:
    """The types of the layers of each stage, as the plan cuts them."""
    names = layer_types(model)
    return [
        names[count(first) : count(stop)] for first, stop in deployment["placement"]["stage_layers"]
    ]


def ends_bytes(model: Json, deployment: Json, first: bool, last: bool) -> int:
    """Embedding and extra weights on the first stage; final norm, head and MTP layers on the last.

    Tied weights are held once where one stage is both first and last.
    """
    layout, precision = degrees(deployment), deployment["precision"]
    hidden, vocabulary = model["hidden_size"], up(model["vocab_size"], layout["tp"])
    total = 0
    if first:
        total += stored_bytes(hidden, vocabulary, precision["embedding"])
        for extra in model["extra_weights"]:
            total += stored_bytes(1, extra["parameters"], extra["format"])
    if last:
        total += stored_bytes(1, hidden, precision["norm"])
        if not (first and model["tied_embeddings"]):
            total += stored_bytes(hidden, vocabulary, precision["head"])
        if model["mtp"] is not None and model["mtp"]["used"]:
            layer = [
                *layer_matrices(model, layer_types(model)[-1], layout),
                Matrix("ffn", 2 * hidden, hidden),
                Matrix("norm", 3, hidden),
            ]
            once = sum(matrix_bytes(matrix, precision) for matrix in layer)
            total += once * count(model["mtp"]["num_layers"], 1)
    return total


def weights(plan: Json) -> Iterator[Outcome]:
    """Dense, expert, embedding and head weights of each stage are the specs' to the byte."""
    model = plan["model"]
    for deployment in plan["deployments"]:
        layout, precision = degrees(deployment), deployment["precision"]
        held: dict[str, tuple[int, int]] = {}
        for name in set(layer_types(model)):
            matrices = layer_matrices(model, name, layout, redundant_experts(plan))
            sizes = [(matrix.part, matrix_bytes(matrix, precision)) for matrix in matrices]
            experts = sum(size for part, size in sizes if part == "experts")
            held[name] = (sum(size for _, size in sizes) - experts, experts)
        cut = stage_layers(deployment, model)
        for stage, (names, memory) in enumerate(
            zip(cut, deployment["memory"]["stages"], strict=True)
        ):
            derived = {
                "dense weights": sum(held[name][0] for name in names),
                "expert weights": sum(held[name][1] for name in names),
                "embedding and head": ends_bytes(
                    model, deployment, stage == 0, stage == len(cut) - 1
                ),
            }
            for component, amount in derived.items():
                yield equal(
                    f"stage {stage} {component}, bytes", memory["components"][component], amount
                )

"""A plan's execution graph, checked, in one of the formats."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from optimizer.errors import Problem, SpecError
from optimizer.plan import Plan
from optimizer.simulate.graph.build import WHOLE, Wanted, plan_graph
from optimizer.simulate.graph.check import check_graph
from optimizer.simulate.graph.formats.as_chakra import chakra_files
from optimizer.simulate.graph.formats.as_dot import as_dot
from optimizer.simulate.graph.formats.as_graphml import as_graphml
from optimizer.simulate.graph.formats.as_json import as_json
from optimizer.simulate.graph.formats.as_svg import layers_svg, pipeline_svg
from optimizer.simulate.graph.graph import Graph
from optimizer.simulate.training_step import step_graph

WRITERS = {"json": as_json, "graphml": as_graphml, "dot": as_dot}
_LAYERS = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")


def graph_files(
    plan: Plan, kind: str, wanted: Wanted = WHOLE, layers: str | None = None
) -> dict[str, Iterable[str] | Iterable[bytes]]:
    """File name -> content in pieces: one file, or for chakra one a rank and the groups."""
    if kind == "svg" and wanted.all_ranks:
        raise SpecError(
            Problem("a picture shows equal ranks as one; leave it out", key="--all-ranks")
        )
    trains = [number for number, each in enumerate(plan.deployments) if each.training is not None]
    if trains:
        if layers is not None:
            raise SpecError(
                Problem("belongs to serving; a training step has passes of chunks", key="--layers")
            )
        graph = step_graph(plan, trains[0])
    else:
        graph = plan_graph(plan, wanted)
        check_graph(graph, plan)
    if layers is not None:
        graph = chosen_layers(graph, layers, len(plan.model.layer_names))
    if kind == "chakra":
        return {**chakra_files(graph)}
    if kind == "svg":
        draw = pipeline_svg if layers is None else layers_svg
        return {"dag.svg": list(draw(graph, plan))}  # whole before the first byte is written
    return {f"dag.{kind}": WRITERS[kind](graph, plan)}


def chosen_layers(graph: Graph, text: str, num_layers: int) -> Graph:
    """The nodes of a range of layers, "3" or "0-3", and the edges between them."""
    found = _LAYERS.fullmatch(text.strip())
    first = int(found[1]) if found else -1
    last = int(found[2] or first) if found else -1
    if not 0 <= first <= last < num_layers:
        raise SpecError(
            Problem(
                f"{text[:40]!r} names no layers; the model has 0 to {num_layers - 1}: write for "
                'example "0-3"',
                key="--layers",
            )
        )
    keep: np.ndarray[tuple[int], np.dtype[np.bool_]] = (graph.layer >= first) & (
        graph.layer <= last
    )
    return graph.only(keep)

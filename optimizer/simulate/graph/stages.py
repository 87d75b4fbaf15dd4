"""One stage running one micro-batch: nodes and edges, on one rank or on all that share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.errors import PlanError
from optimizer.plan import Deployment
from optimizer.simulate.graph.graph import RECEIVE, Flags, Floats, Ids, Operation
from optimizer.simulate.graph.wiring import issue_order, reads
from optimizer.simulate.table import COLLECTIVES


@dataclass(frozen=True)
class Teams:
    """Who works together in a stage, as places in it [width]: first each alone, then the groups of
    each axis and size; folded, one place stands for all."""

    width: int
    groups: Mapping[tuple[str, int], tuple[tuple[int, ...], ...]]

    @property
    def all(self) -> list[tuple[int, ...]]:
        alone = [(place,) for place in range(self.width)]
        return alone + [team for groups in self.groups.values() for team in groups]

    def of(self, operation: Operation) -> tuple[int, Ids]:
        """(number of the first team, the team of each place counted from it)."""
        alone = np.arange(self.width, dtype=np.int32)
        if operation.kind not in COLLECTIVES or operation.kind == "send_recv" or self.width == 1:
            return 0, alone
        first = self.width
        for key, groups in self.groups.items():
            if key == (operation.axis, operation.group_size):
                team = np.zeros(self.width, dtype=np.int32)
                for number, places in enumerate(groups):
                    team[list(places)] = number
                return first, team
            first += len(groups)
        raise PlanError(
            f"operator table: {operation.name} runs over {operation.group_size} ranks along "
            f"{operation.axis!r}; the placement has no such groups"
        )


def teams_of(deployment: Deployment, all_ranks: bool) -> Teams:
    """The groups of a stage's ranks by axis, and the whole stage, over which experts exchange."""
    width = deployment.layout.width
    if not all_ranks:
        return Teams(1, {})
    groups: dict[tuple[str, int], tuple[tuple[int, ...], ...]] = {}
    for axis, ranks in deployment.placement.groups.items():
        inner = tuple(group for group in ranks if max(group) < width)
        if axis != "pp" and inner and len(inner[0]) > 1:
            groups[axis, len(inner[0])] = inner
    if deployment.layout.ep > 1 or deployment.layout.etp > 1:
        groups["ep", width] = (tuple(range(width)),)
    return Teams(width, groups)


@dataclass(frozen=True)
class StageGraph:
    """Nodes and edges of a stage and micro-batch; ids and teams count from 0. Each of `receives`,
    `first`, `last` and `sends` names a node a place: what comes in, the first and the last operator
    issued, and what goes out."""

    operation: Ids
    team: Ids
    layer: Ids
    source: Ids
    target: Ids
    tensor_bytes: Floats
    data: Flags
    receives: Ids
    first: Ids
    last: Ids
    sends: Ids


class StageDraft:
    """Collects a stage's operators in the order of issue."""

    def __init__(self, operations: Sequence[Operation], teams: Teams) -> None:
        self.operations, self.teams = operations, teams
        self.count = 0
        self.nodes: list[tuple[Ids, Ids, Ids]] = []  # operation, team, layer
        self.edges: list[tuple[Ids, Ids, Floats, Flags]] = []
        self.issued: list[tuple[int, Ids]] = []  # operation, node of each place

    def add(self, index: int, layer: int, before: Sequence[tuple[int, Ids]]) -> tuple[int, Ids]:
        """One operator on every place, after those that it reads and the one issued before it."""
        operation = self.operations[index]
        first, team = self.teams.of(operation)
        size = int(team.max()) + 1
        where: Ids = (team + self.count).astype(np.int32)
        self.count += size
        self.nodes.append(
            (
                np.full(size, index, dtype=np.int32),
                np.arange(first, first + size, dtype=np.int32),
                np.full(size, layer, dtype=np.int32),
            )
        )
        for source, places in before:
            self._edges(places, where, tensor_bytes(self.operations[source], operation), True)
        moves = operation.kind in ("send_recv", RECEIVE)
        if not moves:
            if self.issued and not any(places is self.issued[-1][1] for _, places in before):
                self._edges(self.issued[-1][1], where, 0.0, False)
            self.issued.append((index, where))
        return index, where

    def _edges(self, source: Ids, target: Ids, moved: float, data: bool) -> None:
        pairs = np.unique(np.stack([source, target]), axis=1).astype(np.int32)
        size = pairs.shape[1]
        self.edges.append((pairs[0], pairs[1], np.full(size, moved), np.full(size, data)))

    def part(
        self, names: Mapping[str, int], part: str, layer: int, given: Sequence[tuple[int, Ids]]
    ) -> list[tuple[int, Ids]]:
        """A layer, the embedding or the head; what it hands on: operators that nothing reads."""
        placed: dict[str, tuple[int, Ids]] = {}
        unread: dict[str, None] = {}
        order = issue_order(list(names), part)
        for name in order:
            read = reads(name, order)
            before = [placed[each] for each in read] if read else given
            placed[name] = self.add(names[name], layer, before)
            unread[name] = None
            for each in read:
                unread.pop(each, None)
        return [placed[name] for name in unread]

    def done(self, receives: Ids, sends: Ids) -> StageGraph:
        nodes = [np.concatenate(column) for column in zip(*self.nodes, strict=True)]
        edges = [np.concatenate(column) for column in zip(*self.edges, strict=True)]
        return StageGraph(
            nodes[0],
            nodes[1],
            nodes[2],
            edges[0].astype(np.int32),
            edges[1].astype(np.int32),
            edges[2].astype(np.float64),
            edges[3].astype(np.bool_),
            receives,
            self.issued[0][1],
            self.issued[-1][1],
            sends,
        )


def tensor_bytes(source: Operation, target: Operation) -> float:
    """What passes along an edge: a collective takes one rank's message, others what was written."""
    return target.payload_bytes if target.kind in COLLECTIVES else source.tensor_bytes


def stage_graph(
    operations: Sequence[Operation],
    teams: Teams,
    own: Sequence[int],
    layers: Sequence[tuple[int, str]],
    receive: str | None,
    send: str | None,
) -> StageGraph:
    """`own` are the operations that may run here, `layers` (number, type) of this stage, `receive`
    and `send` its messages: the first stage, which receives none, embeds; the last has the head."""
    draft = StageDraft(operations, teams)
    by_part: dict[str, dict[str, int]] = {}
    for index in own:
        by_part.setdefault(operations[index].part, {})[operations[index].name] = index
    nowhere: Ids = np.zeros(0, dtype=np.int32)
    receives = sends = nowhere
    given: list[tuple[int, Ids]] = []
    if receive is not None:
        given = [draft.add(_boundary(by_part, receive), -1, [])]
        receives = given[0][1]
    elif "embedding" in by_part:
        given = draft.part(by_part["embedding"], "embedding", -1, [])
    for layer, kind in layers:
        if kind not in by_part:
            raise PlanError(f"operator table: a hole: no operators of layer {layer} ({kind})")
        given = draft.part(by_part[kind], kind, layer, given)
    if send is not None:
        sends = draft.add(_boundary(by_part, send), -1, given)[1]
    elif "head" in by_part:
        draft.part(by_part["head"], "head", -1, given)
    return draft.done(receives, sends)


def _boundary(by_part: Mapping[str, Mapping[str, int]], name: str) -> int:
    try:
        return by_part["boundary"][name]
    except KeyError:
        raise PlanError("operator table: a hole: no boundary between stages") from None

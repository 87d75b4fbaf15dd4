"""The graph as MLCommons Chakra execution traces: a file a rank, and the communication groups.

Fields as configs/schema/chakra/et_def.proto has them (MIT); attributes as ASTRA-sim's workload
layer reads them: is_cpu_op, num_ops, tensor_size, comm_type, comm_size, pg_name, comm_src,
comm_dst, comm_tag. comm_size is what one rank contributes, as in ASTRA-sim's collectives.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from optimizer.errors import PlanError
from optimizer.simulate.graph.formats.protobuf import delimited, integer, message, packed, text
from optimizer.simulate.graph.graph import RECEIVE, Graph, Ids, Operation

SCHEMA_VERSION = "0.0.4"
_COMPUTE, _SEND, _RECEIVE, _COLLECTIVE = 4, 5, 6, 7  # NodeType
_COLLECTIVES = {"all_reduce": 0, "all_gather": 2, "all_to_all": 6, "reduce_scatter": 7}
_ID, _NAME, _TYPE, _ORDER, _DATA, _MICROSECONDS, _ATTRIBUTE = 1, 2, 3, 4, 5, 7, 10  # of Node
_INT32, _INT64, _UINT64, _BOOL, _STRING = 7, 9, 13, 27, 29  # of AttributeProto


def chakra_files(graph: Graph, name: str = "plan") -> dict[str, Iterator[bytes]]:
    """NAME.0.et, NAME.1.et ... and comm_groups.json, each made when it is written."""
    files: dict[str, Iterator[bytes]] = {}
    members = _nodes_of_ranks(graph)
    peers = _Peers(graph)
    for rank in range(len(graph.ranks)):
        files[f"{name}.{rank}.et"] = _trace(graph, rank, members[rank], peers)
    groups = {_group_name(team): list(ranks) for team, ranks in enumerate(graph.teams)}
    used = {_group_name(team) for team in np.unique(graph.team).tolist()}
    shown = {key: ranks for key, ranks in groups.items() if len(ranks) > 1 and key in used}
    files["comm_groups.json"] = iter([json.dumps(shown, indent=1).encode() + b"\n"])
    return files


def _group_name(team: int) -> str:
    """ASTRA-sim takes "0" for all ranks, so groups count from 1."""
    return str(team + 1)


def _nodes_of_ranks(graph: Graph) -> list[Ids]:
    """The nodes that each rank runs, ascending."""
    teams = np.repeat(np.arange(len(graph.teams)), [len(team) for team in graph.teams])
    ranks = np.concatenate([np.array(team) for team in graph.teams])
    by_team: dict[int, Ids] = {}
    order = np.argsort(graph.team, kind="stable").astype(np.int32)
    bounds = np.searchsorted(graph.team[order], np.arange(len(graph.teams) + 1))
    for team in range(len(graph.teams)):
        by_team[team] = order[bounds[team] : bounds[team + 1]]
    found: list[list[Ids]] = [[] for _ in graph.ranks]
    for team, rank in zip(teams.tolist(), ranks.tolist(), strict=True):
        found[rank].append(by_team[team])
    return [np.sort(np.concatenate(parts)) for parts in found]


class _Peers:
    """Who receives what was sent, and messages numbered by pair of ranks as both ends count."""

    def __init__(self, graph: Graph) -> None:
        sends = graph.of_kind("send_recv")
        receives = graph.of_kind(RECEIVE)
        across = sends[graph.source] & receives[graph.target]
        self.other: dict[int, int] = {}
        self.tag: dict[int, int] = {}
        counted: dict[tuple[int, int], int] = defaultdict(int)
        pairs = zip(graph.source[across].tolist(), graph.target[across].tolist(), strict=True)
        for send, receive in sorted(pairs):
            source, target = (graph.teams[graph.team[node]][0] for node in (send, receive))
            self.other[send], self.other[receive] = target, source
            self.tag[send] = self.tag[receive] = counted[source, target]
            counted[source, target] += 1


def _trace(graph: Graph, rank: int, own: Ids, peers: _Peers) -> Iterator[bytes]:
    yield delimited(text(1, SCHEMA_VERSION))
    bodies = [_body(operation) for operation in graph.operations]
    seconds = graph.column("seconds")[own]
    microseconds = _whole(seconds * 1e6)
    held = np.zeros(len(graph), dtype=bool)
    held[own] = True
    inner = np.flatnonzero(held[graph.source] & held[graph.target])
    inner = inner[np.argsort(graph.target[inner], kind="stable")]
    source, data = graph.source[inner].tolist(), graph.data[inner].tolist()
    bounds = [*np.searchsorted(graph.target[inner], own).tolist(), len(inner)]
    operations, teams = graph.operation[own].tolist(), graph.team[own].tolist()
    for place, node in enumerate(own.tolist()):
        operation = graph.operations[operations[place]]
        before = range(bounds[place], bounds[place + 1])
        body = integer(_ID, node + 1) + bodies[operations[place]]
        body += packed(_ORDER, [source[edge] + 1 for edge in before if not data[edge]])
        body += packed(_DATA, [source[edge] + 1 for edge in before if data[edge]])
        body += integer(_MICROSECONDS, int(microseconds[place]))
        if operation.kind in _COLLECTIVES:
            body += _attribute("pg_name", _STRING, _group_name(teams[place]))
        elif operation.kind in ("send_recv", RECEIVE):
            if node not in peers.other:
                raise PlanError(f"the execution graph has a {operation.name} without a peer")
            ends = (rank, peers.other[node])
            for key, value in zip(
                ("comm_src", "comm_dst", "comm_tag"),
                (*(ends if operation.kind == "send_recv" else ends[::-1]), peers.tag[node]),
                strict=True,
            ):
                body += _attribute(key, _INT32, value)
        yield delimited(body)


def _whole(microseconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Ids:
    """Whole microseconds whose sums stay within one of the exact ones."""
    ends = np.floor(np.cumsum(microseconds) + 0.5)
    found: Ids = np.diff(ends, prepend=0.0).astype(np.int64)
    return found


def _body(operation: Operation) -> bytes:
    """What all nodes of an operation share."""
    kinds = {**dict.fromkeys(_COLLECTIVES, _COLLECTIVE), "send_recv": _SEND, RECEIVE: _RECEIVE}
    kind = kinds.get(operation.kind, _COMPUTE)
    body = text(_NAME, operation.name) + integer(_TYPE, kind)
    body += _attribute("is_cpu_op", _BOOL, False)
    if kind == _COMPUTE:
        body += _attribute("num_ops", _INT64, round(operation.flops))
        return body + _attribute("tensor_size", _UINT64, round(operation.bytes))
    if kind == _COLLECTIVE:
        body += _attribute("comm_type", _INT64, _COLLECTIVES[operation.kind])
    size = operation.tensor_bytes if kind == _RECEIVE else operation.payload_bytes
    return body + _attribute("comm_size", _INT64, round(size))


def _attribute(name: str, field: int, value: int | str) -> bytes:
    held = text(field, value) if isinstance(value, str) else integer(field, int(value))
    return message(_ATTRIBUTE, text(1, name) + held)

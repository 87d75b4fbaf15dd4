"""The rows of a plan's operator table as operations of the graph, at the plan's operating point."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.plan import Deployment, OperatorRow
from optimizer.simulate.graph.graph import RECEIVE, Operation
from optimizer.simulate.graph.wiring import READS, members
from optimizer.simulate.table import COLLECTIVES, POOL_SEND, QUANTITIES, phase_table, step_table
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec

ACTIVATION_BYTES = 2.0  # an element of a tensor between operators: engines keep them in 16 bits


def operations_of(
    cluster: Cluster, model: ModelSpec, deployment: Deployment, phase: str, load: float = 1.0
) -> tuple[Operation, ...]:
    """One run of each row with `load` times the plan's tokens; a send is followed by its
    receive."""
    table = step_table(cluster, deployment, phase)
    point = phase_table(deployment, phase).grid[0]
    tokens = load * point.tokens
    values = {name: table.at(name, tokens, point.context) for name in QUANTITIES}
    hidden = tokens * model.hidden_size * ACTIVATION_BYTES
    found = []
    for index, row in enumerate(table.rows):
        own = {name: float(values[name][index]) for name in QUANTITIES}
        operation = Operation(
            _name(row),
            row.part,
            phase,
            row.kind,
            row.axis,
            row.group_size,
            row.inside,
            own["seconds"],
            own["flops"],
            own["bytes"],
            own["payload_bytes"],
            _handed_on(row, table.rows, own["payload_bytes"], hidden),
        )
        found.append(operation)
        if row.kind == "send_recv":
            found.append(
                operation._replace(
                    name=received(operation.name),
                    kind=RECEIVE,
                    seconds=0.0,
                    payload_bytes=0.0,
                )
            )
    return tuple(found)


def operation_pools(deployment: Deployment, phase: str) -> list[str | None]:
    """Where each of these operations runs; None: in every pool that its deployment has."""
    found: list[str | None] = []
    for row in phase_table(deployment, phase).rows:
        pool = None if row.name == POOL_SEND else row.pool
        found += [pool] * (1 + (row.kind == "send_recv"))
    return found


def received(send: str) -> str:
    """The name of what follows a send."""
    return send.replace("send", "receive")


def _name(row: OperatorRow) -> str:
    """Shared experts have a matrix and a scalar of one name; the scalar stands with the router."""
    return (
        row.name.replace("shared_gate", "shared_expert_gate") if row.group == "router" else row.name
    )


def _handed_on(
    row: OperatorRow, rows: Sequence[OperatorRow], payload_bytes: float, hidden_bytes: float
) -> float:
    """Bytes of what an operator writes: m x n of a matrix product, what the next matrix product
    reads after another operator, a hidden state per token otherwise."""
    if row.kind in COLLECTIVES:
        return payload_bytes * (row.group_size if row.kind == "all_gather" else 1)
    if row.n[0]:
        return ACTIVATION_BYTES * row.m[0] * row.n[0]
    for reader in rows:
        if reader.part == row.part and reader.k[0] and row.name in _read_by(reader.name):
            return ACTIVATION_BYTES * reader.m[0] * reader.k[0]
    return hidden_bytes


def _read_by(name: str) -> tuple[str, ...]:
    return tuple(read for each in members(name) for read in READS.get(each, ()))

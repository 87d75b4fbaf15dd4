"""Plans as text: JSON, hash, schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from optimizer.errors import PlanError, why_unreadable
from optimizer.plan.document import SCHEMA_VERSION, Plan

Kind = TypeVar("Kind", bound=BaseModel)


def content_hash(document: dict[str, object]) -> str:
    """SHA-256 of a plan's JSON without its own hash, keys sorted, no spaces."""
    body = {key: value for key, value in document.items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sealed(plan: Plan) -> Plan:
    """The same plan with its hash."""
    return plan.model_copy(
        update={"hash": content_hash(plan.model_dump(mode="json", by_alias=True))}
    )


def write_plan(plan: Plan) -> str:
    """The plan as JSON text."""
    return (
        json.dumps(plan.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False) + "\n"
    )


def read_plan(text: str, source: str = "plan") -> Plan:
    """The plan that write_plan wrote; raises PlanError for another version or a broken hash."""
    return plan_of(_parsed(text, source), source)


def load_plan(path: str | Path) -> Plan:
    """The plan in a file."""
    return plan_of(load_json(path), str(path))


def load_json(path: str | Path) -> object:
    """What a JSON file holds; raises PlanError where it holds none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read: {why_unreadable(error)}") from None
    return _parsed(text, str(path))


def _parsed(text: str, source: str) -> object:
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{source}: not JSON: {error}") from None
    return document


def plan_of(document: object, source: str) -> Plan:
    """A plan's JSON, checked."""
    if not isinstance(document, dict) or "schema_version" not in document:
        raise PlanError(f"{source}: no plan: a plan is a JSON object with a schema_version")
    if "parts" in document:
        raise PlanError(
            f"{source}: several plans side by side, not one; `optimize simulate` and "
            "verify_strategy.py read it as it is"
        )
    return unsealed(document, source, Plan, SCHEMA_VERSION)


def unsealed(document: dict[str, object], source: str, kind: type[Kind], version: str) -> Kind:
    """A document of this kind once its version, hash and shape are found right."""
    if document.get("schema_version") != version:
        raise PlanError(
            f"{source}: schema version {document.get('schema_version')!r}; this program reads "
            f"{version}: plan again from the same inputs"
        )
    if document.get("hash") != content_hash(document):
        raise PlanError(f"{source}: the hash does not match: it was changed after it was made")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"{source}: {where}: {first['msg']}") from None


def plan_schema() -> str:
    """The JSON Schema of a plan, as shipped in configs/schema/plan.json."""
    schema = Plan.model_json_schema(by_alias=True, mode="serialization")
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

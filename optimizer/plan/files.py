"""Plans as text: JSON, hash, schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from optimizer.errors import PlanError, why_unreadable
from optimizer.plan.document import SCHEMA_VERSION, Plan


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
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{source}: not JSON: {error}") from None
    if not isinstance(document, dict) or "schema_version" not in document:
        raise PlanError(f"{source}: no plan: a plan is a JSON object with a schema_version")
    if "parts" in document:
        raise PlanError(
            f"{source}: several plans side by side, not one; `optimize simulate` and "
            "verify_strategy.py read it as it is"
        )
    if document["schema_version"] != SCHEMA_VERSION:
        raise PlanError(
            f"{source}: schema version {document['schema_version']!r}; this program reads "
            f"{SCHEMA_VERSION}: plan again from the same inputs"
        )
    if document.get("hash") != content_hash(document):
        raise PlanError(
            f"{source}: the hash does not match: the plan was changed after it was made"
        )
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"{source}: {where}: {first['msg']}") from None


def plan_schema() -> str:
    """The JSON Schema of a plan, as shipped in configs/schema/plan.json."""
    schema = Plan.model_json_schema(by_alias=True, mode="serialization")
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def load_plan(path: str | Path) -> Plan:
    """The plan in a file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read: {why_unreadable(error)}") from None
    return read_plan(text, str(path))

"""Whether this is a plan of the version that is known here, whole and unchanged."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, content_hash
from optimizer.verify.finding import Outcome, equal

SCHEMA_VERSION = "1.0"


def identity(plan: Json) -> Iterator[Outcome]:
    """The schema version is known, and the hash is that of the content."""
    yield equal("schema version", plan["schema_version"], SCHEMA_VERSION)
    yield equal("hash", plan["hash"], content_hash(plan))

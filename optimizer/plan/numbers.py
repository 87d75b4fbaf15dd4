"""The number type of a plan's figures."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Number = Annotated[float, Field(allow_inf_nan=False)]


def is_none(value: object) -> bool:
    """Whether a field that few plans have is left out of the others' bytes."""
    return value is None

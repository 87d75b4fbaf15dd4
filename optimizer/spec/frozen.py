"""The base of every spec: frozen, no unknown keys, read and written as the files name them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Size = Annotated[int, Field(ge=1, le=10**7, strict=True)]  # a dimension of a matrix
CountOrZero = Annotated[int, Field(ge=0, le=10**9, strict=True)]
Name = Annotated[str, Field(min_length=1, max_length=120)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True
    )


def wrong(message: str, *path: str | int) -> PydanticCustomError:
    """What a validator of a whole spec raises: names the key below the spec that is to blame."""
    return PydanticCustomError("wrong", "{message}", {"message": message, "path": path})


class Assumption(Frozen):
    """A value that nobody stated: the key it fills, the value taken, and why."""

    key: str
    value: str
    why: str

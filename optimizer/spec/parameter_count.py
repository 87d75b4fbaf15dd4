"""A stated number of parameters ("30 B") against what the layers of a model add up to."""

from __future__ import annotations

import re
from decimal import Decimal

from optimizer.errors import Problem, SpecError
from optimizer.spec.document import Document
from optimizer.spec.frozen import Assumption
from optimizer.spec.linears import total_parameters
from optimizer.spec.model import ModelSpec
from optimizer.spec.wording import shown

TOLERANCE = 0.01  # reports round to two or three digits
MOST = 10**15  # beyond it, dimensions are typing errors

_COUNT = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([MBT])\s*")
_SCALE = {"M": 10**6, "B": 10**9, "T": 10**12}


def check_total(document: Document, model: ModelSpec) -> ModelSpec:
    """The model, a stated total recorded as an assumption that it meets (or refused)."""
    total = refuse_giants(document, model)
    line = document.nearest_line(("num_parameters",))

    def refuse(message: str) -> SpecError:
        return SpecError(Problem(message, document.file, line, "num_parameters"))

    value = document.data.get("num_parameters")
    if value is None:
        return model
    stated = _count(value)
    if stated is None:
        raise refuse(f"must be a number of parameters such as '30 B', not {shown(value)}")
    if abs(total / stated - 1) > TOLERANCE:
        raise refuse(
            f"says {in_billions(stated)}, but the layers add up to {in_billions(total)}; "
            f"change the sizes or leave the key out"
        )
    met = Assumption(
        key="num_parameters",
        value=in_billions(total),
        why=f"{in_billions(stated)} is stated; the sizes, assumed ones among them, come to this",
    )
    return model.model_copy(update={"assumptions": (*model.assumptions, met)})


def refuse_giants(document: Document, model: ModelSpec) -> int:
    """The total; refuses what no cluster of any size could hold, before it is counted in floats."""
    total = total_parameters(model)
    if total > MOST:
        message = f"the layers add up to {total:.3g} parameters, beyond anything real"
        raise SpecError(Problem(message, document.file))
    return total


def in_billions(count: int | Decimal) -> str:
    """Parameters for a reader: "30.2 B"."""
    return f"{float(count) / 1e9:.4g} B"


def _count(value: object) -> Decimal | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Decimal(str(value)) if value > 0 else None
    match = _COUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    count = Decimal(match[1]) * _SCALE[match[2]]
    return count if count > 0 else None

"""Expert loads: one row a layer, one column an expert, from CSV, .npy or what engines record.

.csv, .txt  numbers separated by commas, no header
.npy        an array [layers, experts], or [steps, layers, experts], summed over the steps
.json       [[...], ...]; {"loads": ...}, as placement.json has it; or {"logical_count": ...}, as
            SGLang's recorder has it, with or without steps in front
.jsonl      vLLM's load statistics, one object a line, summed: {"expert_load": [layers, slots],
            "p2l_map": the expert of each of these slots}; a .json file may hold one such object
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import Problem, SpecError
from optimizer.spec.json_lines import parse_json

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_BYTES = 64_000_000
LARGEST_LOAD = 1e18  # tokens; sums of it stay finite and precise
MOST_PROBLEMS = 20


def read_loads(
    source: str | Path, *, layers: int | None = None, experts: int | None = None
) -> Floats:
    """Loads [layers, experts] of a file; `layers` and `experts` are those of the model, if known.

    Rows of zeros (dense layers, which some recorders list too) are dropped if only so many layers
    remain as the model has. Raises SpecError with every problem found.
    """
    path = Path(source)
    file = str(path)
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_BYTES:
            raise SpecError(Problem(f"is larger than {MAX_BYTES // 10**6} MB", file))
        loads = _READERS.get(path.suffix.lower(), _read_csv)(path)
    except OSError as error:
        raise SpecError(Problem(f"cannot be read: {error.strerror or error}", file)) from None
    except UnicodeDecodeError:
        raise SpecError(Problem("is not UTF-8 text", file)) from None
    return _checked(loads, file, layers, experts)


def read_expert_map(source: str | Path) -> Ints:
    """The expert of each slot [layers, slots]: a placement.json, or any engine's form of one.

    {"physical_to_logical_map": [[...], ...]} (placement.json, SGLang) or [[...], ...] (vLLM).
    """
    path = Path(source)
    file, key = str(path), "physical_to_logical_map"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(Problem(f"is larger than {MAX_BYTES // 10**6} MB", file))
        data, _ = parse_json(path.read_text(encoding="utf-8-sig"), file)
    except OSError as error:
        raise SpecError(Problem(f"cannot be read: {error.strerror or error}", file)) from None
    except UnicodeDecodeError:
        raise SpecError(Problem("is not UTF-8 text", file)) from None
    if isinstance(data, dict):
        if key not in data:
            raise SpecError(Problem(f"holds no '{key}'", file))
        data = data[key]
    placed = _array(data, file, None, key)
    if placed.ndim != 2 or not placed.size or (placed != np.floor(placed)).any():
        raise SpecError(Problem("must be lists of whole numbers, one a layer", file, key=key))
    if placed.min() < 0 or placed.max() >= placed.shape[1]:
        raise SpecError(Problem("must name an expert, from 0, for each slot", file, key=key))
    return placed.astype(np.int64)


def _checked(loads: Floats, file: str, layers: int | None, experts: int | None) -> Floats:
    if loads.ndim != 2 or 0 in loads.shape:
        shape = " x ".join(map(str, loads.shape))
        raise SpecError(Problem(f"must be layers x experts, is {shape or 'one number'}", file))
    for wrong, what in (
        (~np.isfinite(loads), "is no finite number"),
        (loads < 0, "is negative"),
        (loads > LARGEST_LOAD, f"is above {LARGEST_LOAD:g}"),
    ):
        at = np.argwhere(wrong)[:MOST_PROBLEMS]
        if len(at):
            raise SpecError(
                *(
                    Problem(
                        f"{loads[layer, expert]:g} {what}",
                        file,
                        key=f"layer {layer}, expert {expert} (from 0)",
                    )
                    for layer, expert in at.tolist()
                )
            )
    if layers is not None and len(loads) > layers:
        used = loads[loads.any(axis=1)]
        loads = used if len(used) == layers else loads
    for axis, (what, expected) in enumerate((("layers", layers), ("experts", experts))):
        if expected is not None and loads.shape[axis] != expected:
            message = f"has {loads.shape[axis]} {what}, the model has {expected}"
            raise SpecError(Problem(message, file))
    return loads


def _read_csv(path: Path) -> Floats:
    rows: list[list[float]] = []
    problems: list[Problem] = []
    width = 0
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        cells = line.split(",")
        width = width or len(cells)
        if len(cells) != width:
            message = f"has {len(cells)} columns, the lines before have {width}"
            problems.append(Problem(message, str(path), number))
            continue
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            bad = next(cell.strip() for cell in cells if not _is_number(cell))
            message = f"'{bad[:40]}' is no number; the file holds numbers only, no header"
            problems.append(Problem(message, str(path), number))
    if problems:
        raise SpecError(*problems[:MOST_PROBLEMS])
    if not rows:
        raise SpecError(Problem("is empty", str(path)))
    return np.array(rows)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_npy(path: Path) -> Floats:
    try:
        # mapped, so that a header that promises more than the file holds is refused
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # of a broken header NumPy raises whatever its parser meets
        message = "is no array of numbers as numpy.save writes it, or is cut short"
        raise SpecError(Problem(message, str(path))) from None
    if array.dtype.kind not in "iuf":
        raise SpecError(Problem(f"must hold numbers, not {array.dtype}", str(path)))
    return _over_steps(np.asarray(array, dtype=np.float64))


def _read_json(path: Path) -> Floats:
    data, _ = parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    return _of_json(data, str(path), None)


def _read_json_lines(path: Path) -> Floats:
    total: Floats | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            raise SpecError(Problem("is no JSON object", str(path), number)) from None
        loads = _of_json(data, str(path), number)
        if total is not None and total.shape != loads.shape:
            raise SpecError(Problem("has another shape than the lines before", str(path), number))
        total = loads if total is None else total + loads
    if total is None:
        raise SpecError(Problem("is empty", str(path)))
    return total


def _of_json(data: Any, file: str, line: int | None) -> Floats:
    if isinstance(data, dict) and "expert_load" in data:
        slot_loads = _array(data["expert_load"], file, line, "expert_load")
        slot_expert = _array(data.get("p2l_map"), file, line, "p2l_map")
        return _by_expert(slot_loads, slot_expert, file, line)
    key = None
    if isinstance(data, dict):
        key = next((name for name in ("loads", "logical_count") if name in data), None)
        if key is None:
            message = "holds no loads; write {'loads': [[...], ...]} or only [[...], ...]"
            raise SpecError(Problem(message, file, line))
        data = data[key]
    return _over_steps(_array(data, file, line, key))


def _array(data: Any, file: str, line: int | None, key: str | None) -> Floats:
    """Nested lists of numbers as an array; ragged rows, texts and truth values are refused."""
    try:
        array = np.array(data)
    except (ValueError, OverflowError):
        raise SpecError(Problem("has rows of different lengths", file, line, key)) from None
    if array.dtype.kind not in "iuf":
        raise SpecError(Problem("must be nested lists of numbers", file, line, key))
    return array.astype(np.float64)


def _over_steps(array: Floats) -> Floats:
    """[steps, layers, experts] -> [layers, experts]; what has no steps is returned as it is."""
    summed: Floats = array.sum(axis=0) if array.ndim == 3 else array
    return summed


def _by_expert(slot_loads: Floats, slot_expert: Floats, file: str, line: int | None) -> Floats:
    """Loads of slots [layers, slots], summed by the expert in each slot."""
    whole = slot_expert == np.floor(slot_expert)
    if slot_loads.ndim != 2 or slot_loads.shape != slot_expert.shape or not slot_loads.size:
        raise SpecError(Problem("must have the shape of expert_load", file, line, "p2l_map"))
    if not whole.all() or slot_expert.min() < 0 or slot_expert.max() >= slot_expert.shape[1]:
        message = "must name an expert, from 0, for each slot"
        raise SpecError(Problem(message, file, line, "p2l_map"))
    layers, experts = len(slot_loads), int(slot_expert.max()) + 1
    loads = np.zeros((layers, experts))
    np.add.at(loads, (np.arange(layers)[:, None], slot_expert.astype(np.int64)), slot_loads)
    return loads


_READERS = {
    ".npy": _read_npy,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
}

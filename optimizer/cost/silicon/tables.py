"""Which measured tables there are of a GPU and an engine, as rows of sizes and seconds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from optimizer.errors import Problem, SpecError, why_unreadable

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = "aiconfigurator_core"
INSTALL = "pip install 'parallel-strategy-optimizer[silicon]'"
ENGINES = ("vllm", "sglang", "trtllm")
SYSTEMS = {"rtx_pro_6000": "rtx_pro_6000_server"}  # whose folder is not the GPU's name

# The tables' columns under our names; sizes are counts, latency milliseconds.
ATTENTION = {
    "kv_cache_dtype": "cache",
    "attn_dtype": "format",
    "batch_size": "sequences",
    "step": "context",
    "num_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "window_size": "window",
}
NAMES: Mapping[str, Mapping[str, str]] = {
    "gemm_perf": {"gemm_dtype": "format", "m": "m", "n": "n", "k": "k"},
    "generation_attention_perf": ATTENTION,
    "custom_allreduce_perf": {"num_gpus": "ranks", "message_size": "elements"},
}
FAMILIES = {
    "gemm_perf": "gemm",
    "generation_attention_perf": "attention",
    "custom_allreduce_perf": "comm",
}


class Source(NamedTuple):
    """Whose tables price: an engine's of the optional package, and a file of
    benchmarks/measure_operators.py."""

    engine: str
    file: str = ""


def systems_root() -> Path | None:
    """Where the optional package keeps its tables, without importing it; None when it is absent."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "systems" / "data"


def require_tables() -> Path:
    """Where the tables are; a SpecError that says how to get them."""
    root = systems_root()
    if root is None:
        text = f"measured operator tables (--silicon) need the optional extra: {INSTALL}"
        raise SpecError(Problem(text))
    return root


def system_of(gpu: str) -> str:
    """The folder of a GPU: h200_sxm of H200 SXM."""
    name = gpu.lower().replace(" ", "_")
    return SYSTEMS.get(name, name)


@cache
def measured_rows(gpu: str, source: Source, table: str) -> pd.DataFrame | None:
    """All rows of one table in seconds, of each size the newest engine version's, and the file's
    own; None where nothing was measured."""
    import pandas as pd

    parts = [_own_rows(gpu, source.file, table)] if source.file else []
    root = systems_root()
    if root is not None:
        parts += _shipped_rows(root / system_of(gpu) / FAMILIES[table] / source.engine, table)
    if not any(map(len, parts)):
        return None
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True)
    newest = rows.groupby(list(NAMES[table].values()), dropna=False)["age"].transform("min")
    return rows[(rows["age"] == newest) & (rows["seconds"] > 0)].drop(columns="age")


def _shipped_rows(folder: Path, table: str) -> list[pd.DataFrame]:
    """The package's rows, aged by how many engine versions are newer."""
    import pandas as pd

    names, found = NAMES[table], []
    files = sorted(folder.glob(f"*/{table}.parquet"), key=_version, reverse=True)
    for age, file in enumerate(files):
        part = pd.read_parquet(file, columns=[*names, "latency"]).rename(columns=dict(names))
        found.append(part.assign(seconds=part.pop("latency") / 1e3, age=age))
    return found


def _own_rows(gpu: str, file: str, table: str) -> pd.DataFrame:
    """Rows of a file: columns gpu, table, our names of the sizes, seconds; newer than any other."""
    import pandas as pd

    try:
        rows = pd.read_csv(file)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(Problem(f"cannot be read: {why_unreadable(error)}", file)) from None
    except ValueError as error:
        raise SpecError(Problem(f"no table of timed operators: {error}", file)) from None
    sizes = [*NAMES[table].values(), "seconds"]
    about = {"gpu", "table"} - set(rows.columns)
    mine = rows if about else rows[(rows["gpu"] == gpu) & (rows["table"] == table)]
    lacking = about | (set(sizes) - set(rows.columns) if len(mine) else set())
    if lacking:
        raise SpecError(Problem(f"columns missing: {', '.join(sorted(lacking))}", file))
    return mine.reindex(columns=sizes).assign(age=-1)


def _version(file: Path) -> tuple[int, ...]:
    """1.3.0rc20 as (1, 3, 0, 20), so that rc9 comes before rc10."""
    digits = "".join(letter if letter.isdigit() else " " for letter in file.parent.name)
    return tuple(int(part) for part in digits.split())

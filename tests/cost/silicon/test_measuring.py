"""The program that times operators, with a clock that we set, and the pricers that read it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from optimizer.cost.demand import Device
from optimizer.cost.pricers import asks
from optimizer.cost.silicon import tables, with_tables
from optimizer.errors import SpecError
from optimizer.operators import Operator
from optimizer.spec.reading import read_cluster

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
import measure_operators as measuring

AMD = Device.of(read_cluster("mi300x"), 0)  # no table of the package has it


class Slow:
    """A device whose products take a microsecond a row, with one hiccup in three runs."""

    software = "clockwork 1"

    def __init__(self) -> None:
        self.hiccups = cycle((1.0, 1.0, 50.0))

    def product(self, kind: str, m: int, n: int, k: int) -> Callable[[], float]:
        return lambda: m * 1e-6

    def attention(
        self, sequences: int, keys: int, heads: int, kv_heads: int
    ) -> Callable[[], float]:
        return lambda: sequences * 1e-6

    def seconds(self, run: Callable[[], object]) -> float:
        return float(run()) * next(self.hiccups)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("timed") / "timed.csv"
    found = measuring.measured(AMD.gpu.name, Slow(), measuring.asked())
    found.to_csv(file, index=False)
    return file


def test_the_median_leaves_hiccups_out_and_rows_name_gpu_and_software(timed: Path) -> None:
    rows = pd.read_csv(timed)
    products = rows[rows["table"] == "gemm_perf"]
    assert products["seconds"].to_numpy() == pytest.approx(products["m"].to_numpy() * 1e-6)
    assert set(rows["gpu"]) == {AMD.gpu.name}
    assert set(rows["software"]) == {"clockwork 1"}


def test_the_pricers_read_what_was_timed(timed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PACKAGE", "no_such_package_of_tables")
    device = with_tables(AMD, "vllm", ["gemm", "attention"], str(timed))
    m, n, k = np.array([64.0, 128.0, 1e6]), 4096.0 * np.ones(3), 8192.0 * np.ones(3)
    operator = Operator("p", "ffn", "gemm", 2 * m * n * k, m * n, m=m, n=n, k=k)
    first, _ = asks(operator, device)
    assert first.demand.seconds[0] == pytest.approx(64e-6)
    assert first.demand.label.tolist() == [0.0, 1.0, 2.0]
    assert 64e-6 < first.demand.seconds[1] < 256e-6


def test_nothing_is_faster_than_the_datasheet(timed: Path) -> None:
    device = with_tables(AMD, "vllm", ["gemm"], str(timed))
    one, side = np.ones(1), 16384.0 * np.ones(1)
    moved = 2 * side * side
    operator = Operator("p", "ffn", "gemm", moved, moved, m=one, n=side, k=side)
    first, _ = asks(operator, device)
    assert first.demand.seconds == moved / AMD.gpu.memory_bandwidth_bytes_per_s > 1e-6


def test_a_table_that_lacks_a_column_or_is_not_there_says_so(tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    file.write_text("gpu,table,m\nX,gemm_perf,1\n", encoding="utf-8")
    with pytest.raises(SpecError, match="columns missing: format, k, n, seconds"):
        tables.measured_rows("X", tables.Source("vllm", str(file)), "gemm_perf")
    assert tables.measured_rows("Y", tables.Source("no", str(file)), "gemm_perf") is None
    with pytest.raises(SpecError, match="cannot be read"):
        tables.measured_rows("X", tables.Source("vllm", str(tmp_path / "no.csv")), "gemm_perf")

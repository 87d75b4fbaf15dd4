"""`optimize experts` from a file of loads to the engines' files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from optimizer.errors import SpecError
from optimizer.placing_experts import place, summary
from optimizer.spec.loads import read_loads
from optimizer.verify.experts import check_expert_placement


@pytest.fixture
def loads(tmp_path: Path) -> Path:
    path = tmp_path / "loads.csv"
    random = np.random.default_rng(3)
    np.savetxt(path, random.lognormal(0.0, 0.7, (4, 16)), delimiter=",")
    return path


def test_a_placement_comes_with_its_files_and_verifies(loads: Path) -> None:
    placement, files, findings = place(str(loads), gpus=8, slots=24)
    assert findings == []
    assert set(files) == {
        "placement.json",
        "sglang_expert_location.json",
        "trtllm_moe_load_balancer.yaml",
        "vllm_expert_map.json",
    }
    assert not check_expert_placement(json.loads(files["placement.json"]))
    assert "above the bound" in summary(placement)


def test_moving_little_moves_no_more_than_asked(loads: Path, tmp_path: Path) -> None:
    _, files, _ = place(str(loads), gpus=8, slots=24)
    current = tmp_path / "placement.json"
    current.write_text(files["placement.json"])
    drifted = tmp_path / "drifted.csv"
    random = np.random.default_rng(4)
    np.savetxt(drifted, read_loads(loads) * random.uniform(0.8, 1.2, (4, 16)), delimiter=",")
    moved, _, findings = place(str(drifted), gpus=8, slots=24, current=str(current), max_moves=3)
    assert moved.moves is not None
    assert moved.moves.max() <= 3
    assert findings == []


def test_what_vllm_and_sglang_read_is_a_current_placement_too(loads: Path, tmp_path: Path) -> None:
    first, files, _ = place(str(loads), gpus=8, slots=24)
    for name in ("vllm_expert_map.json", "sglang_expert_location.json"):
        current = tmp_path / name
        current.write_text(files[name])
        again, _, _ = place(str(loads), gpus=8, slots=24, current=str(current), max_moves=0)
        assert (again.physical_to_logical_map == first.physical_to_logical_map).all()


def test_bad_loads_and_files_are_named(loads: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot hold"):
        place(str(loads), gpus=8, slots=8)
    broken = tmp_path / "broken.json"
    broken.write_text("[]")
    with pytest.raises(SpecError, match="one a layer"):
        place(str(loads), gpus=8, slots=24, current=str(broken))
    parts = tmp_path / "parts.json"
    parts.write_text(json.dumps([[slot % 16 + 0.5 for slot in range(24)]] * 4))
    with pytest.raises(SpecError, match="whole numbers"):
        place(str(loads), gpus=8, slots=24, current=str(parts))
    negative = tmp_path / "negative.csv"
    negative.write_text("1,2\n-3,4\n")
    with pytest.raises(SpecError, match=r"negative|at least 0"):
        place(str(negative), gpus=2, slots=2)

"""Expert loads from files: every form that is accepted, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from optimizer.errors import SpecError
from optimizer.spec.loads import read_expert_map, read_loads

TWO_LAYERS = [[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("loads.csv", "3,1,2\n0,5,4\n"),
        ("loads.csv", "\ufeff3, 1, 2.0\r\n\r\n0,5e0,4\r\n"),
        ("loads.json", "[[3, 1, 2], [0, 5, 4]]"),
        ("placement.json", '{"schema": "expert-placement", "loads": [[3, 1, 2], [0, 5, 4]]}'),
        ("sglang.json", '{"logical_count": [[3, 1, 2], [0, 5, 4]]}'),
        ("sglang.json", '{"logical_count": [[[1, 1, 0], [0, 2, 4]], [[2, 0, 2], [0, 3, 0]]]}'),
        (
            "vllm.jsonl",
            '{"record_type": "eplb_load_stats", "expert_load": [[1, 1, 2, 2], [5, 0, 4, 0]], '
            '"p2l_map": [[0, 1, 2, 0], [1, 0, 2, 0]]}\n',
        ),
    ],
)
def test_every_form_of_the_same_loads_reads_the_same(tmp_path: Path, name: str, text: str) -> None:
    assert read_loads(written(tmp_path, name, text)).tolist() == TWO_LAYERS


def test_arrays_are_read_with_and_without_steps(tmp_path: Path) -> None:
    np.save(tmp_path / "loads.npy", np.array(TWO_LAYERS, dtype=np.float32))
    assert read_loads(tmp_path / "loads.npy").tolist() == TWO_LAYERS
    np.save(tmp_path / "steps.npy", np.array([TWO_LAYERS, TWO_LAYERS]))
    assert read_loads(tmp_path / "steps.npy").tolist() == [[6, 2, 4], [0, 10, 8]]


def test_lines_of_statistics_add_up(tmp_path: Path) -> None:
    line = json.dumps({"expert_load": [[1, 2]], "p2l_map": [[1, 0]]})
    path = written(tmp_path, "stats.jsonl", f"{line}\n\n{line}\n")
    assert read_loads(path).tolist() == [[4, 2]]


def test_rows_of_dense_layers_are_dropped_when_the_model_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, "loads.csv", "0,0\n0,0\n3,1\n2,2\n")
    assert read_loads(path, layers=2, experts=2).tolist() == [[3, 1], [2, 2]]
    assert len(read_loads(path)) == 4


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("loads.csv", "1,2\n3,-4\n", "layer 1, expert 1 \\(from 0\\): -4 is negative"),
        ("loads.csv", "1,nan\n", "nan is no finite number"),
        ("loads.csv", "1,inf\n", "inf is no finite number"),
        ("loads.csv", "1,1e30\n", "is above 1e[+]18"),
        ("loads.csv", "1,2\n3\n4,5\n", "csv:2: has 1 columns, the lines before have 2"),
        ("loads.csv", "expert0,expert1\n1,2\n", "csv:1: 'expert0' is no number"),
        ("loads.csv", "1,,2\n", "'' is no number"),
        ("loads.csv", "\n\n", "is empty"),
        ("loads.json", "[]", "must be layers x experts"),
        ("loads.json", "[1, 2]", "must be layers x experts, is 2"),
        ("loads.json", "[[1, 2], [3]]", "rows of different lengths"),
        ("loads.json", '[["a", "b"]]', "nested lists of numbers"),
        ("loads.json", "[[true, false]]", "nested lists of numbers"),
        ("loads.json", "[[1, NaN]]", "finite"),
        ("loads.json", '{"tokens": [[1]]}', "holds no loads"),
        ("loads.json", "[[1, 2]", "no valid JSON"),
        ("loads.json", '{"expert_load": [[1, 2]]}', "p2l_map: must be nested lists"),
        ("loads.json", '{"expert_load": [[1, 2]], "p2l_map": [[0, 7]]}', "must name an expert"),
        ("loads.json", '{"expert_load": [[1, 2]], "p2l_map": [[0]]}', "shape of expert_load"),
        ("stats.jsonl", "{\n", "stats.jsonl:1: is no JSON object"),
        ("stats.jsonl", "[[1]]\n[[1, 2]]\n", "stats.jsonl:2: has another shape"),
        ("loads.npy", "no array", "is no array of numbers"),
    ],
)
def test_what_is_no_load_is_refused_and_named(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        read_loads(written(tmp_path, name, text))


def test_arrays_of_objects_and_truncated_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    np.save(tmp_path / "whole.npy", np.ones((4, 8)))
    raw = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(raw[:-8])
    (tmp_path / "huge.npy").write_bytes(raw.replace(b"(4, 8)", b"(9, 9)"))
    (tmp_path / "odd.npy").write_bytes(raw.replace(b"(4, 8)", b"(4, 8}"))
    for name in ("objects", "words", "cut", "huge", "odd"):
        with pytest.raises(SpecError, match=f"{name}.npy"):
            read_loads(tmp_path / f"{name}.npy")


def test_loads_of_another_model_say_both_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, "loads.csv", "1,2,3\n4,5,6\n")
    with pytest.raises(SpecError, match="has 3 experts, the model has 128"):
        read_loads(path, layers=2, experts=128)
    with pytest.raises(SpecError, match="has 2 layers, the model has 58"):
        read_loads(path, layers=58)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.csv: cannot be read"):
        read_loads(tmp_path / "nowhere.csv")
    with pytest.raises(SpecError, match="cannot be read"):
        read_loads(tmp_path)


def test_maps_are_read_as_placements_and_engines_write_them(tmp_path: Path) -> None:
    for text in ("[[0, 1, 1], [1, 0, 0]]", '{"physical_to_logical_map": [[0, 1, 1], [1, 0, 0]]}'):
        placed = read_expert_map(written(tmp_path, "map.json", text))
        assert placed.dtype == np.int64
        assert placed.tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"map": [[0]]}', "holds no 'physical_to_logical_map'"),
        ("[[0, 1.5]]", "whole numbers"),
        ("[[0, -1]]", "must name an expert"),
        ("[[0, 2]]", "must name an expert"),
        ("[0, 1]", "one a layer"),
        ("[[0], [0, 1]]", "different lengths"),
        ("[]", "one a layer"),
    ],
)
def test_what_is_no_map_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        read_expert_map(written(tmp_path, "map.json", text))
    with pytest.raises(SpecError, match="cannot be read"):
        read_expert_map(tmp_path / "none.json")

"""Shipped inputs with one thing changed: refused with problems, or read; never anything else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimizer.errors import SpecError
from optimizer.spec.data import configs_root
from optimizer.spec.linears import total_parameters
from optimizer.spec.model import ModelSpec
from optimizer.spec.reading import read_cluster, read_model, read_workload

NUM_MUTANTS = 500
ODD = [
    *("-1", "0", "1e999", "NaN", "null", "true", "[]", "{}", '""', "99999999999999999999", "a: b"),
    *("&x", "*x", "!!x", "- ", "\t", "é", "\0", "%", "0.5", "[[[[", "fp8", "80 GB", "---\n"),
]


def shipped() -> list[Path]:
    root = configs_root()
    folders = ("hardware", "models", "workloads", "cases")
    return sorted(
        path for folder in folders for path in (root / folder).rglob("*.*") if path.suffix != ".md"
    )


def mutants() -> Iterator[tuple[Path, str]]:
    """A file with a stretch deleted, doubled, swapped for another, or replaced by something odd."""
    files = shipped()
    random_ = random.Random(20)
    for _ in range(NUM_MUTANTS):
        path = random_.choice(files)
        text = path.read_text()
        start = random_.randrange(len(text))
        end = min(len(text), start + random_.choice([0, 1, 1, 3, 10, 40]))
        other = random_.randrange(len(text))
        piece = random_.choice(
            ["", text[start:end] * 2, text[other : other + 10], random_.choice(ODD)]
        )
        yield path, text[:start] + piece + text[end:]


def outcome(path: Path, source: Path) -> object:
    """The spec that a changed copy of a shipped file gives, or the error that it causes."""
    kind = source.relative_to(configs_root()).parts[0]
    try:
        if kind == "hardware" or source.name == "hardware.yaml":
            return read_cluster(path)
        return read_workload(path) if kind == "workloads" else read_model(path).model
    except SpecError as error:
        return error


def test_a_mutant_is_read_or_refused_with_its_problems(tmp_path: Path) -> None:
    found = []
    for source, text in mutants():
        copy = tmp_path / source.name
        copy.write_text(text)
        found.append(outcome(copy, source))
    errors = [result for result in found if isinstance(result, SpecError)]
    assert all(error.problems and str(error) for error in errors)
    assert all(total_parameters(result) > 0 for result in found if isinstance(result, ModelSpec))
    assert 50 < len(errors) < NUM_MUTANTS - 50  # the mutants are neither all broken nor all whole


@pytest.mark.parametrize("source", shipped(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_half_a_file_is_read_or_refused(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / source.name
    text = source.read_text()
    copy.write_text(text[: len(text) // 2])
    assert outcome(copy, source) is not None

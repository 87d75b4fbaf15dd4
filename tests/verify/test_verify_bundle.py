"""verify_strategy.py: the same checks in one file that needs nothing but Python."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import optimizer.verify as verify
from optimizer.verify import bundle, results, verify_plan
from optimizer.verify.bundle import MODULES


def run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Runs the bundled file alone: an empty folder, no site packages, no environment."""
    (folder / "verify_strategy.py").write_text(bundle(), encoding="utf-8")
    (folder / "plan.json").write_text(text, encoding="utf-8")
    command = [sys.executable, "-I", "-S", "verify_strategy.py", "plan.json", "--json", "out.json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_it_finds_what_the_package_finds(plan_texts: dict[str, str], tmp_path: Path) -> None:
    for name, text in plan_texts.items():
        done = run(tmp_path, text)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        assert written == results(verify_plan(json.loads(text)))


def test_it_says_4_for_a_changed_plan_and_2_for_none(
    plan_texts: dict[str, str], tmp_path: Path
) -> None:
    document: dict[str, Any] = json.loads(plan_texts["searched"])
    document["proof"]["bound"] += 1
    assert run(tmp_path, json.dumps(document)).returncode == 4
    done = run(tmp_path, "no plan")
    assert (done.returncode, done.stdout) == (2, "")


def test_it_imports_the_standard_library_only() -> None:
    imported = set()
    for node in ast.walk(ast.parse(bundle())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_every_module_is_in_it_and_no_name_is_defined_twice() -> None:
    folder = Path(verify.__file__).parent
    there = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__", "bundle"}
    there.add("fleet/checks")
    assert set(MODULES) == there
    names: list[str] = []
    for node in ast.parse(bundle()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    assert [name for name, times in Counter(names).items() if times > 1] == []

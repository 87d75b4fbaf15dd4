"""The whole of this package as one file that needs nothing but Python."""

from __future__ import annotations

import ast
from pathlib import Path

# In an order in which each module needs only the ones before it.
MODULES = (
    "document",
    "finding",
    "gpus",
    "matrices",
    "identity",
    "weights",
    "cache",
    "slots",
    "memory",
    "placement",
    "load",
    "counts",
    "products",
    "tables",
    "pools",
    "arithmetic",
    "traffic",
    "switches",
    "predictions",
    "robustness",
    "limits",
    "proof",
    "space",
    "sources",
    "training_stages",
    "training_memory",
    "training_step",
    "training_space",
    "checks",
    "fleet/checks",
    "command",
)
HEADER = '''"""Verifies a plan: python verify_strategy.py optimal_parallel_strategy.json

Recomputes what a plan says from the specs that it embeds; standard library only (Python >= 3.11).
Exit code 0: all holds; 4: something does not; 2: no plan.
"""

from __future__ import annotations

'''
FOOTER = '\n\nif __name__ == "__main__":\n    raise SystemExit(main())\n'


def bundle() -> str:
    """The source of verify_strategy.py: the modules one after the other, imports on top."""
    folder = Path(__file__).resolve().parent
    modules: set[str] = set()
    names: dict[str, set[str]] = {}
    bodies = []
    for name in MODULES:
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        lines = source.splitlines()
        tree = ast.parse(source)
        start = 0
        for node in tree.body:
            if isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found = names.setdefault(node.module or "", set())
                found.update(alias.name for alias in node.names)
            else:
                continue
            start = node.end_lineno or start
        said = (ast.get_docstring(tree) or "").splitlines()
        heading = [f"# {line}".rstrip() for line in said]
        bodies.append("\n".join([*heading, *lines[start:]]).rstrip())
    imports = [f"import {module}" for module in sorted(modules)]
    for module in sorted(names):
        if not module.startswith(("optimizer.", "__future__")):
            imports.append(f"from {module} import {', '.join(sorted(names[module]))}")
    return HEADER + "\n".join(imports) + "\n\n\n" + "\n\n\n".join(bodies) + FOOTER

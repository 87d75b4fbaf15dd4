"""Where the data files that ship with the package lie, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path


def configs_root() -> Path:
    """The folder configs/, inside the installed package or beside it in a checkout."""
    inside = Path(__file__).resolve().parent.parent / "configs"
    return inside if inside.is_dir() else inside.parent.parent / "configs"

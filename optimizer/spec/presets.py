"""What ships with the package under configs/, found by name from any working directory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from optimizer.errors import Problem, SpecError
from optimizer.spec.data import configs_root
from optimizer.spec.files import read_document
from optimizer.spec.wording import nearest

Kind = Literal["hardware", "models", "workloads", "calibration"]

_WHAT = {
    "hardware": "hardware",
    "models": "model",
    "workloads": "workload",
    "calibration": "calibration",
}


@cache
def preset_paths(kind: Kind) -> dict[str, Path]:
    """Preset name -> file, in alphabetical order."""
    files = sorted((configs_root() / kind).glob("*.*"), key=lambda path: path.stem)
    return {path.stem: path for path in files if path.name not in ("README.md", "sources.yaml")}


@cache
def model_repositories() -> dict[str, str]:
    """Preset name -> Hugging Face repository that its config.json came from."""
    data = read_document(configs_root() / "models" / "sources.yaml").data
    return {name: str(repository) for name, repository in data["repositories"].items()}


def locate(source: str | Path, kind: Kind, inside_folder: tuple[str, ...]) -> Path:
    """The file that `source` means: a preset's name, a file, or a folder with one of those inside.

    A preset's name wins over a file of that name ("./l4" is the file). A path under configs/ is
    found from any working directory.
    """
    if not isinstance(source, Path) and source.strip() in preset_paths(kind):
        return preset_paths(kind)[source.strip()]
    path = Path(source)
    try:
        if path.is_dir():
            return _inside(path, inside_folder)
        if path.exists() or isinstance(source, Path):
            return path
    except (OSError, ValueError):  # a name too long for a path, or one with a zero byte
        raise SpecError(Problem(f"'{str(source)[:60]}' is no file name")) from None
    shipped = _shipped(source.strip(), inside_folder)
    if shipped is not None:
        return shipped
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        raise SpecError(Problem("no such file", source))
    return find_preset(source, kind, "is neither a file nor")


def find_preset(name: str, kind: Kind, is_none: str = "is not") -> Path:
    """The preset of a name, or of a repository's name ("deepseek-ai/DeepSeek-V3")."""
    presets = preset_paths(kind)
    last = name.strip().rsplit("/", 1)[-1].lower()
    if name.strip() in presets:
        return presets[name.strip()]
    if kind == "models":
        for preset, repository in model_repositories().items():
            if last in (preset, repository.rsplit("/", 1)[-1].lower()):
                return presets[preset]
    meant = nearest(last, presets)
    hint = f" (did you mean '{meant}'?)" if meant else ""
    known = ", ".join(presets)
    raise SpecError(
        Problem(f"'{name[:80]}' {is_none} a {_WHAT[kind]} preset{hint}; presets: {known}")
    )


def _shipped(name: str, inside_folder: tuple[str, ...]) -> Path | None:
    """configs/cases/d/model.yaml, or the folder cases/d, in what ships with the package."""
    parts = Path(name.removeprefix("configs/")).parts
    if ".." in parts or not parts or parts[0] == "/":
        return None
    path = configs_root().joinpath(*parts)
    path = _inside(path, inside_folder) if path.is_dir() else path
    return path if path.is_file() else None


def _inside(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of several files that a folder has; the last where it has none."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[-1])

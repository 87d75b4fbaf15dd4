"""What ships with the package under configs/, found by name from any working directory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from optimizer.errors import Problem, SpecError
from optimizer.spec.data import configs_root
from optimizer.spec.files import read_document
from optimizer.spec.wording import nearest

Kind = Literal["hardware", "models", "workloads"]

_WHAT = {"hardware": "hardware", "models": "model", "workloads": "workload"}


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
    """The file that `source` means: a path, a folder that holds `inside_folder`, or a preset.

    "deepseek-ai/DeepSeek-V3" finds a preset too; a path under configs/ is found from anywhere.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return _inside(path, inside_folder)
        if path.exists() or isinstance(source, Path):
            return path
    except (OSError, ValueError):  # a name too long for a path, or one with a zero byte
        raise SpecError(Problem(f"'{str(source)[:60]}' is no file name")) from None
    presets = preset_paths(kind)
    name = source.strip()
    if name in presets:
        return presets[name]
    shipped = _shipped(name, inside_folder) or _by_repository(name, kind)
    if shipped is not None:
        return shipped
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        raise SpecError(Problem("no such file", name))
    meant = nearest(name.rsplit("/", 1)[-1].lower(), presets)
    hint = f" (did you mean '{meant}'?)" if meant else ""
    known = ", ".join(presets)
    what = _WHAT[kind]
    raise SpecError(
        Problem(f"'{name[:80]}' is neither a file nor a {what} preset{hint}; presets: {known}")
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


def _by_repository(name: str, kind: Kind) -> Path | None:
    if kind != "models":
        return None
    wanted = name.rsplit("/", 1)[-1].lower()
    for preset, repository in model_repositories().items():
        if wanted in (preset, repository.rsplit("/", 1)[-1].lower()):
            return preset_paths("models")[preset]
    return None

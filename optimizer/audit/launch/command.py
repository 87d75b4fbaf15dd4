"""Texts to commands: quoting, continuations, environment, launchers, and files with many."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optimizer.audit.launch.script import started
from optimizer.errors import Problem, SpecError
from optimizer.spec.files import read_text

_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.DOTALL)
_LAUNCHERS = ("env", "nohup", "exec", "time", "export")
_MARKS = {  # what tells an engine's command from the other lines of a script
    "vllm": re.compile(r"[\s/\"]vllm\s+serve\s|vllm\.entrypoints|/vllm-openai"),
    "sglang": re.compile(r"sglang[. ](launch_server|serve)\s"),
    "trtllm": re.compile(r"[\s/\"]trtllm-serve\s"),
    "megatron": re.compile(
        r"\.py\W.*\s--(num-layers|hidden-size|micro-batch-size|global-batch-size|"
        r"tensor-model-parallel-size|seq-length)\s",
        re.S,
    ),
}
_SHELL = re.compile(r"(.*/)?(ba)?sh")
_CONTAINERS = ("docker", "podman")
_PROGRAM = re.compile(r"(.*/)?(vllm|sglang|trtllm-serve|torchrun|python[0-9.]*)")
_ENDS = ("&", "|", ">", ">>", "2>", "2>&1", "&>", "1>", "<")
_JOINS = (";", "&&", "||")
SCRIPTS = (".sh", ".bash", ".slurm", ".sbatch")
_VARIABLE = re.compile(r"\$(\w|\{|\()")
MAX_COMMANDS = 10_000


@dataclass(frozen=True)
class Command:
    """One command: its words without launcher and redirection, its environment, where it stands."""

    name: str
    text: str
    tokens: tuple[str, ...]
    environment: dict[str, str]
    file: str | None = None
    line: int | None = None
    wrapper: tuple[str, ...] = ()  # "mpirun -n 16", as one text

    @property
    def switched_on(self) -> tuple[str, ...]:
        """Environment variables that are set to yes."""
        return tuple(key for key, value in self.environment.items() if value in ("1", "true"))

    def problem(self, message: str) -> Problem:
        return Problem(message, self.file, self.line)


def read_commands(source: str, engine: str) -> list[Command]:
    """A command, or the commands of a file: one a line, or a CSV with a column `command`.

    Every malformed one is a problem, all at once. Lines end in a backslash where they go on, and
    start with # where they are comments.
    """
    path = Path(source)
    if len(source) > 4000 or len(source.split()) > 1 or not path.is_file():
        if len(source.split()) == 1 and path.suffix:
            raise SpecError(Problem("no such file", source))
        return [read_command(source, engine)]
    if path.suffix.lower() in (".yaml", ".yml"):  # settings, the engine's own to read
        return [Command(engine, source, (source,), {}, source)]
    text = read_text(path)
    if path.suffix.lower() in SCRIPTS or text.startswith("#!"):
        return _script(text, engine, source)
    is_csv = path.suffix.lower() == ".csv"
    rows = list(_csv_rows(text, source) if is_csv else _lines(text))
    if not rows or len(rows) > MAX_COMMANDS:
        raise SpecError(Problem(f"holds {len(rows)} commands; 1 to {MAX_COMMANDS:,} go", source))
    found: list[Command] = []
    problems: list[Problem] = []
    for number, (line, name, command) in enumerate(rows, start=1):
        try:
            label = name or f"{engine} {number}"
            found.append(read_command(command, label, source, line))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(*problems)
    return found


def _script(text: str, engine: str, source: str) -> list[Command]:
    """The commands of an engine's programs in a shell script."""
    found: list[Command] = []
    for line, written, variables, left_out in started(text):
        if not _MARKS[engine].search(f" {written}"):
            continue
        name = f"{engine} {len(found) + 1}"
        command = read_command(written, name, source, line)
        environment = {**variables, **command.environment}
        beside = (*command.wrapper, *left_out)
        found.append(replace(command, environment=environment, wrapper=beside))
    if not found:
        skipped = next((out for _, _, _, out in reversed(list(started(text))) if out), ())
        rest = f"; left out: {skipped[0]}" if skipped else ""
        raise SpecError(Problem(f"starts no engine that is known here{rest}", source))
    return found


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, "", command) of a text with one command a line."""
    start, parts = 0, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if not parts and (not line.strip() or line.lstrip().startswith("#")):
            continue
        start = start if parts else number
        parts.append(line)
        if not line.rstrip().endswith("\\"):
            yield start, "", "\n".join(parts)
            parts = []


def _csv_rows(text: str, file: str) -> Iterator[tuple[int, str, str]]:
    """(line, name, command) of each row; the column `name` may be missing."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [name.strip().lower() for name in reader.fieldnames or ()]
    if "command" not in columns:
        shown = ", ".join(columns[:8])
        raise SpecError(Problem(f"has no column 'command'; its columns: {shown}", file, 1))
    reader.fieldnames = columns
    line = 2
    for row in reader:
        if (row["command"] or "").strip():
            yield line, (row.get("name") or "").strip(), row["command"]
        line = reader.line_num + 1


def read_command(text: str, name: str, file: str | None = None, line: int | None = None) -> Command:
    """One command as a shell would split it."""
    joined = re.sub(r"\\\s*\n", " ", text).strip()
    try:
        tokens = shlex.split(joined)
    except ValueError as error:
        said = str(error).lower()
        raise SpecError(Problem(f"{said} in the command '{_short(joined)}'", file, line)) from None
    tokens, environment = _environment(tokens)
    kept: list[str] = []
    for token in tokens:
        if token in _JOINS or (token.endswith(";") and len(token) > 1):
            raise SpecError(Problem(f"'{token}' joins commands; write one a line", file, line))
        if token in _ENDS or token.startswith("#"):
            break
        kept.append(token)
    if not kept:
        raise SpecError(Problem("holds no command", file, line))
    wrapped = 0
    inner = next((at for at, each in enumerate(kept[:-1]) if _SHELL.fullmatch(each)), None)
    if inner is not None and kept[inner + 1] in ("-c", "-lc") and len(kept) > inner + 2:
        kept = [*kept[:inner], *shlex.split(kept[inner + 2])]  # bash -c "..."
    if kept[0] in _CONTAINERS:
        kept = _inside(kept)
    if not _PROGRAM.fullmatch(kept[0]):
        starts = (index for index, token in enumerate(kept) if _PROGRAM.fullmatch(token))
        wrapped = next(starts, 0)
    wrapper = (" ".join(kept[:wrapped]),) if wrapped else ()
    text = " ".join(joined.split())
    return Command(name, text, tuple(kept[wrapped:]), environment, file, line, wrapper)


def _inside(tokens: list[str]) -> list[str]:
    """What a container runs; the image of vLLM's server needs the flags alone."""
    for index, token in enumerate(tokens):
        if re.fullmatch(r"(.*/)?vllm-openai(:.*)?", token):
            rest = tokens[index + 1 :]
            return rest if rest[:1] == ["vllm"] else ["vllm", "serve", *rest]
        if index and _PROGRAM.fullmatch(token):
            return tokens[index:]
    return tokens


def _environment(tokens: list[str]) -> tuple[list[str], dict[str, str]]:
    """The tokens behind launchers and NAME=value, and those values."""
    found: dict[str, str] = {}
    for index, token in enumerate(tokens):
        match = _ASSIGNMENT.fullmatch(token)
        if match is not None:
            found[match["name"]] = match["value"]
        elif token not in _LAUNCHERS:
            return tokens[index:], found
    return [], found


def known_value(text: str) -> str:
    """A text without shell variables; raises SpecError where there is one."""
    if _VARIABLE.search(text):
        raise SpecError(Problem(f"'{text[:60]}' is a shell variable; write its value"))
    return text


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def arguments(command: Command, programs: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The tokens behind the program's name; raises SpecError where it is none of `programs`."""
    head = command.tokens[0].rsplit("/", 1)[-1]
    head = "python" if re.fullmatch(r"python[0-9.]*", head) else head
    tokens = (head, *command.tokens[1:])
    for program in programs:
        if tokens[: len(program)] == program:
            return tokens[len(program) :]
    wanted = " or ".join(f"'{' '.join(program)} ...'" for program in programs)
    message = f"the command must begin with {wanted}, not '{_short(command.text)}'"
    raise SpecError(command.problem(message))


def partition_of(command: Command, variable: str) -> tuple[int, ...] | None:
    """Layers of each stage that an environment variable names, "20,25,25,24"."""
    text = command.environment.get(variable)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", text):
        message = f"'{variable}={text[:40]}' must be layers by stage, 20,25,25,24"
        raise SpecError(command.problem(message))
    return tuple(int(part) for part in text.split(","))

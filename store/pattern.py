"""Patterns: where the arrays of an import stand, one for each task and layer."""

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actlas.store.errors import InvalidInput, NotFound
from actlas.store.foreign import OPENERS, array_names
from actlas.store.slug import check_slug

PATTERN = "{task}/hidden_states_{layer}.npy"  # how the code of the paper writes them

_FIELDS = {"{task}": r"(?P<task>[^/:.][^/:]*)", "{layer}": r"(?P<layer>\d+)"}
_MAX_LAYER = 9_999


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the array of one layer of one task stands.

    Attributes
    ----------
    file : Path
        The file.
    array : str
        The array's name in it; empty for a .npy file.
    """

    file: Path
    array: str


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Where arrays stand, relative to a directory.

    Attributes
    ----------
    file, array : str
        Pattern of the file's path and of the array's name in it (empty for .npy), with the fields ``{task}`` and
        ``{layer}``.
    task : str or None
        The task, where the pattern does not say.
    """

    file: str
    array: str
    task: str | None

    @property
    def text(self) -> str:
        """The pattern as it is written."""
        return f"{self.file}:{self.array}" if self.array else self.file

    def find(self, source: Path) -> dict[str, dict[int, Place]]:
        """Return what fits in a directory: for each task, in order of its name, the places of its layers, ascending.

        Raises
        ------
        NotFound
            When nothing fits, or there is no such directory.
        InvalidInput
            When a task's name is no slug, two arrays have one task and layer, or a file cannot be read.
        """
        if not source.is_dir():
            raise NotFound(
                f"{source}: expected the directory in which the files are; --pattern says which of them are imported"
            )
        found: dict[str, dict[int, Place]] = {}
        for place, task, layer in self._matches(source):
            check_slug(task, f"{place.file}: task")
            if layer > _MAX_LAYER:
                raise InvalidInput(f"{place.file}: expected a layer of at most {_MAX_LAYER}, got {layer}")
            first = found.setdefault(task, {}).setdefault(layer, place)
            if first is not place:
                raise InvalidInput(
                    f"{source}: {first.file} {first.array} and {place.file} {place.array} are both layer {layer} of task "
                    f"{task!r}; say which with --pattern"
                )
        if not found:
            raise NotFound(
                f"{source}: no array fits the pattern {self.text!r}{_sample(source)}; say with --pattern how tasks and "
                "layers stand in their names"
            )
        return {task: dict(sorted(found[task].items())) for task in sorted(found)}

    def _matches(self, source: Path) -> Iterator[tuple[Place, str, int]]:
        expression = re.compile(_expression(self.text))
        for file in sorted(file for file in source.glob(_wildcards(self.file)) if file.is_file()):
            relative = file.relative_to(source).as_posix()
            for array in array_names(file) if self.array else [""]:
                if match := expression.fullmatch(f"{relative}:{array}" if array else relative):
                    task = match.groupdict().get("task") or self.task or ""
                    yield Place(file=file, array=array), task, int(match["layer"])


def parse_pattern(text: str, task: str | None = None) -> Pattern:
    """Parse a pattern such as ``{task}/hidden_states_{layer}.npy`` or ``{task}.safetensors:layers.{layer}``.

    Parameters
    ----------
    text : str
        The path of a file with the fields ``{task}`` and ``{layer}``; behind a colon the name of the array in it.
    task : str, optional
        The only task, or the task where the pattern has no field for it.

    Raises
    ------
    InvalidInput
        When it lacks a field, has another, or does not end in .npy, .npz or .safetensors.
    """
    file, _, array = (text if task is None else text.replace("{task}", check_slug(task, "task"))).partition(":")
    problem = _problem(file, array)
    if problem is None and task is None and "{task}" not in text:
        problem = "the field {task} where the name of the task stands, or that name with --task"
    if problem is not None:
        raise InvalidInput(f"pattern {text!r}: expected {problem}")
    return Pattern(file=file, array=array, task=task)


def _problem(file: str, array: str) -> str | None:
    """Return what a pattern should have and has not, or None."""
    fields, path = re.findall(r"\{[^{}]*\}|[{}]", file + array), Path(file)
    problems = {
        "no fields but {task} and {layer}": not set(fields) <= _FIELDS.keys(),
        "the field {layer} where the number of the layer stands": "{layer}" not in fields,
        "something between {task} and {layer}": any(f in file + array for f in ("{task}{layer}", "{layer}{task}")),
        f"a name that ends in {', '.join(OPENERS)}": path.suffix not in OPENERS,
        "FILE.npy, FILE.npz:ARRAY or FILE.safetensors:ARRAY": (path.suffix == ".npy") == bool(array),
        "a path below the directory that is imported": path.is_absolute() or ".." in path.parts,
    }
    return next((problem for problem, holds in problems.items() if holds), None)


def _pieces(text: str) -> list[str]:
    return re.split(r"(\{task\}|\{layer\})", text)


def _wildcards(text: str) -> str:
    return "".join("*" if piece in _FIELDS else glob.escape(piece) for piece in _pieces(text))


def _expression(text: str) -> str:
    seen: set[str] = set()
    parts = []
    for piece in _pieces(text):
        is_repeated = piece in seen  # a field that stands twice stands for the same both times
        parts.append(f"(?P={piece[1:-1]})" if is_repeated else _FIELDS.get(piece) or re.escape(piece))
        seen |= {piece} & _FIELDS.keys()
    return "".join(parts)


def _sample(source: Path) -> str:
    files = [file.relative_to(source).as_posix() for _, file in zip(range(3), source.rglob("*.[ns]*"), strict=False)]
    return f"; it holds {', '.join(files)}, ..." if files else ""

"""Fields: which column of a file holds the prompt, the target and the rest, by FLAN's names, Alpaca's, or the user's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actlas.store import InvalidInput

_TEXT_COLUMNS = ("source_id", "template_id", "label")


@dataclass(frozen=True)
class Fields:
    """Which field of a file holds what.

    Attributes
    ----------
    names : mapping
        From ``prompt``, ``target``, ``task``, ``source_id``, ``template_id``, ``label`` to the field that holds it;
        empty for FLAN's and Alpaca's own names.
    """

    names: Mapping[str, str] = field(default_factory=dict)

    def example(self, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return a row as an example: prompt, target, and every other column under its own name.

        Raises
        ------
        InvalidInput
            When prompt or target is missing or no text.
        """
        used = self._find(row, where)
        example: dict[str, Any] = {name: text_of(row, source, where) for name, source in used.items()}
        is_alpaca = used["prompt"] == "instruction"
        if is_alpaca and row.get("input"):  # Alpaca's optional second half of the prompt
            example["prompt"] += "\n\n" + text_of(row, "input", where)
        taken = {*used.values(), *self.names.values(), *(("input",) if is_alpaca else ())}
        for name, value in row.items():
            if name not in taken and name not in ("example_id", *used):
                example[name] = as_text(value) if name in _TEXT_COLUMNS else _scalar(value)
        for name, source in self.names.items():
            if name not in used and name != "task":
                example[name] = as_text(_field(row, source, where))
        return example

    def _find(self, row: Mapping[str, Any], where: str) -> dict[str, str]:
        if "prompt" in self.names:
            return {"prompt": self.names["prompt"], "target": self.names.get("target", "target")}
        known = {"inputs": "targets", "instruction": "output", "prompt": "target"}
        for prompt, target in known.items():
            if prompt in row:
                return {"prompt": prompt, "target": self.names.get("target", target)}
        raise InvalidInput(
            f"{where}: expected the fields inputs and targets (FLAN), instruction and output (Alpaca) or prompt and "
            f"target, got {', '.join(row) or 'none'}; name them with --field prompt=NAME --field target=NAME"
        )


def _field(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise InvalidInput(
            f"{where}: expected a field {name!r}, got {', '.join(row) or 'none'}; mend the file, or name another with --field"
        )
    return row[name]


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """Return the text in a field.

    Raises
    ------
    InvalidInput
        When the row has no such field, or something else in it.
    """
    value = _field(row, name, where)
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: expected text in field {name!r}, got {type(value).__name__}: {value!r:.60}")
    return value


def as_text(value: Any) -> str | None:
    """Return text as it is, and any other value as JSON; None stays None."""
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _scalar(value: Any) -> Any:
    # Free columns keep numbers and text; what JSON or Arrow cannot hold in one column becomes text.
    if isinstance(value, float) and value != value:
        return None
    return value if value is None or isinstance(value, (str, bool, int, float)) else as_text(value)

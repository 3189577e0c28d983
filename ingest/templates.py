"""Templates: the programs that make text of an example, run where they can do no harm and do not run for ever."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from actlas.store import ActError, InvalidInput

FROZEN_DATE = "01 Jan 2024"  # templates that ask for today's date would give other activations every day

SECONDS = 2.0  # of computing, for one example: a thousand times what long prompts need

_WORKER = Path(__file__).with_name("template_worker.py")


class TemplateError(InvalidInput):
    """A template that cannot be rendered: its message says for which example, and why."""


def render_texts(
    template: str, examples: Sequence[Mapping[str, Any]], *, kind: Literal["chat", "jinja"], seconds: float = SECONDS
) -> list[str]:
    """Render a template for each example, in a process of its own.

    Parameters
    ----------
    template : str
        Its text. It can read no file, no other template, no clock, and draw nothing at random.
    examples : sequence of mapping
        The names that it sees, and JSON values for them.
    kind : {"chat", "jinja"}
        ``chat`` has what transformers gives to chat templates, and takes a name that is not there for nothing; ``jinja``
        is jinja2 with its own defaults, and such a name is an error.
    seconds : float
        The longest time that it may compute, for one example.

    Raises
    ------
    TemplateError
        When it fails or takes longer, for the first example for which it does.
    """
    request = {"kind": kind, "date": FROZEN_DATE, "seconds": seconds, "template": template, "examples": list(examples)}
    # -P: the worker's own directory is no place to import from
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-P", str(_WORKER)],
        input=json.dumps(request, default=str),
        capture_output=True,
        encoding="ascii",
    )
    # a process that was killed leaves at most a part of its last line
    answers = [json.loads(line) for line in done.stdout.splitlines(keepends=True) if line.endswith("\n")]
    texts = [answer["text"] for answer in answers if "text" in answer]
    if len(texts) == len(examples) and done.returncode == 0:
        return texts
    is_compiled = bool(answers) and "compiled" in answers[0]
    place = f"example {len(texts) + 1} of {len(examples)}" if is_compiled else "before the first example"
    if answers and "error" in answers[-1]:
        raise TemplateError(f"{place}: {answers[-1]['error']}")
    if done.returncode == -signal.SIGPROF:
        raise TemplateError(f"{place}: it did not end within {seconds:g} s; look for a loop that goes on and on")
    raise ActError(f"templates cannot be rendered here, exit code {done.returncode}: {done.stderr.strip()[-300:]}")

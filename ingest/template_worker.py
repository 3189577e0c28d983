"""A process of its own that renders one template for many examples, and that the system kills when it takes too long.

Run as a script, not imported: a template is a program of somebody else's, and its loops can only be stopped from outside.
It reads a request from stdin and writes a line of JSON for the compiled template, then one for each example.
"""

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.sandbox

_MEMORY_BYTES = 4 << 30


class _Generation(jinja2.ext.Extension):
    """The tag ``generation`` of chat templates, which marks what the model says: nothing here."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Any) -> Any:
        """Return the body as it is."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:  # jinja2's own escapes HTML
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _namespace(*values: Any, **attributes: Any) -> Any:
    if any(name.startswith("_") for name in dict(*values, **attributes)):
        raise jinja2.exceptions.SecurityError("a namespace cannot hold names that begin with an underscore")
    return jinja2.utils.Namespace(*values, **attributes)


def _environment(kind: str, date: str) -> jinja2.Environment:
    """Return a sandbox without files, clock and dice; for ``chat`` with what transformers gives to chat templates."""
    if kind == "chat":
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": lambda _format: date}
    else:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    environment.globals["namespace"] = _namespace
    del environment.filters["random"], environment.globals["lipsum"]
    return environment


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Let the system kill this process when it has computed for so long: no loop and no big number goes on."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()  # what was rendered arrives though the next example kills this process


def _run(request: dict[str, Any]) -> None:
    seconds = request["seconds"]
    with _at_most(seconds):
        template = _environment(request["kind"], request["date"]).from_string(request["template"])
    _answer(compiled=True)
    for values in request["examples"]:
        with _at_most(seconds):
            text = template.render(values)
            text.encode()  # half a surrogate pair is no text
        _answer(text=text)


def main() -> None:
    """Answer one request; an error is the last answer."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        _run(json.load(sys.stdin))
    except jinja2.TemplateSyntaxError as error:
        _answer(error=f"line {error.lineno}: {error.message}")
    except Exception as error:  # a template can fail in any way that Python can
        _answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

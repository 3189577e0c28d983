"""The optional parts, and what is said when one is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from actlas.store import ActError

# What each optional part needs, by the module whose import fails without it.
EXTRAS = {
    "torch": "ingest",
    "transformers": "ingest",
    "peft": "ingest",
    "safetensors": "ingest",
    "tokenizers": "ingest",
    "huggingface_hub": "ingest",
    "jinja2": "ingest",
}


@contextmanager
def needing_extras(what: str) -> Iterator[None]:
    """Import optional packages inside; `what` needs them.

    Raises
    ------
    ActError
        When one is not installed; any other package that is missing is a broken install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ActError(f"{what} needs {error.name}; install it with: pip install 'actlas[{extra}]'") from error

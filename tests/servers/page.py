"""The blocks of docs/how-to/share.md that the servers here run."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "share.md"


def block(language: str, containing: str) -> str:
    """Return the one block of the page in `language` that has `containing` in it."""
    fenced = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    [found] = [text for text in fenced if containing in text]
    return found

"""Renderings: how an example becomes the text that a model sees."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from actlas.ingest.templates import FROZEN_DATE, TemplateError, render_texts
from actlas.store import InvalidInput, NotFound, Source, Task, check_slug
from actlas.store.digest import json_digest

RENDERINGS: tuple[str, ...] = ("raw", "chat")

SUFFIX = ".jinja"

_MARK = "\ue000actlas\ue001"  # private characters: no prompt and no template holds them


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A rendering.

    Attributes
    ----------
    slug : str
        Its name in the store.
    kind : {"raw", "chat", "jinja"}
        The prompt as it is; a user's turn in the tokenizer's chat template, and the opening of the answer; a template of
        the user's.
    template : str or None
        The text of a jinja file.
    source : str or None
        Its path, for messages.
    system : str or None
        What a system turn before the user's says; for ``chat`` alone.
    with_target : bool
        Whether the target follows the prompt, as if the model had said it.
    """

    slug: str
    kind: Literal["raw", "chat", "jinja"]
    template: str | None = None
    source: str | None = None
    system: str | None = None
    with_target: bool = False

    @property
    def joint(self) -> str:
        """What stands between prompt and target, unless one of them has white space there."""
        return " " if self.kind == "raw" else ""


def load_rendering(name: "str | Rendering", system: str | None = None, *, with_target: bool = False) -> Rendering:
    """Return the rendering that a name stands for.

    Parameters
    ----------
    name : str or Rendering
        ``raw``, ``chat``, or the path of a .jinja file; its name without suffix is the rendering's. A rendering is
        returned as it is.
    system : str, optional
        A system turn for ``chat``.
    with_target : bool
        Let the target follow the prompt; the slug then ends in ``-target``.

    Raises
    ------
    NotFound
        When there is no such file.
    InvalidInput
        When the name is none of these, the file is not text in UTF-8 or its name no slug, or `system` is given for
        anything but ``chat``.
    """
    if isinstance(name, Rendering):
        return name
    if system is not None and name != "chat":
        raise InvalidInput(
            f"--system: expected the rendering chat alone, got {name}; use --render chat, or put the text into a jinja file"
        )
    if name in RENDERINGS:
        rendering = Rendering(slug=name, kind="chat" if name == "chat" else "raw", system=system)
    else:
        rendering = _load_file(Path(name))
    return replace(rendering, slug=f"{rendering.slug}-target", with_target=True) if with_target else rendering


def _load_file(path: Path) -> Rendering:
    if path.suffix != SUFFIX:
        raise InvalidInput(f"rendering {str(path)!r}: expected {', '.join(RENDERINGS)} or a path that ends in {SUFFIX}")
    slug = check_slug(path.stem, "rendering")
    if slug in RENDERINGS:
        raise InvalidInput(f"{path}: the name {slug} is taken by the rendering {slug}; rename the file")
    try:
        template = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound(
            f"no template at {path}: expected {', '.join(RENDERINGS)} or the path of a {SUFFIX} file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read as text in UTF-8 ({error}); expected a jinja template") from error
    return Rendering(slug=slug, kind="jinja", template=template, source=str(path))


def rendering_digest(tokenizer: Any, rendering: Rendering) -> str:
    """Return the digest of a rendering: its kind, and what its text depends on beside the example and the tokenizer."""
    target = {"target": rendering.joint} if rendering.with_target else {}
    if rendering.kind == "raw":
        return json_digest({"kind": "raw"} | target)
    if rendering.kind == "jinja":
        return json_digest({"kind": "jinja", "template": rendering.template, "date": FROZEN_DATE} | target)
    system = {} if rendering.system is None else {"system": rendering.system}
    described = {"kind": "chat", "template": chat_template(tokenizer), "date": FROZEN_DATE, "bos": 1}
    return json_digest(described | system | target)


def chat_template(tokenizer: Any) -> str:
    """Return the tokenizer's chat template.

    Raises
    ------
    Source
        When it has none.
    """
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise Source(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template, so --render chat means nothing; use --render raw"
        ) from error


def texts_of(task: Task, tokenizer: Any, rendering: Rendering) -> list[str]:
    """Return the text of each example, in task order.

    Raises
    ------
    InvalidInput
        When a jinja file cannot be rendered for an example, or takes too long.
    Source
        When the chat template cannot, or leaves the system turn out.
    """
    if rendering.kind == "raw":
        return [str(row["prompt"]) for row in task.rows]
    if rendering.kind == "chat":
        return _chat_texts(task, tokenizer, rendering.system)
    # The id is left out with the target, for it depends on it.
    examples = [{name: row[name] for name in row if name not in ("example_id", "target")} for row in task.rows]
    try:
        return render_texts(rendering.template or "", examples, kind="jinja")
    except TemplateError as error:
        raise InvalidInput(
            f"{rendering.source}: the template cannot be rendered for task {task.slug}, {error}; it sees the columns "
            f"{', '.join(examples[0])}"
        ) from error


def contents_of(task: Task, texts: Sequence[str], tokenizer: Any, rendering: Rendering) -> list[tuple[int, int]]:
    """Return where the prompt stands in each text, as the first character and the one after the last.

    Parameters
    ----------
    task : Task
        Its examples.
    texts : sequence of str
        What `texts_of` made of them.
    tokenizer : transformers tokenizer
        Whose chat template may be used.
    rendering : Rendering
        Which.

    Raises
    ------
    InvalidInput
        When a template shows the prompt not at all, more than once, or together with what depends on it.
    """
    if rendering.kind == "raw":
        return [(0, len(text)) for text in texts]
    marked = replace(task, rows=tuple({**row, "prompt": _MARK} for row in task.rows))
    spans = []
    for row, (text, frame) in enumerate(zip(texts, texts_of(marked, tokenizer, rendering), strict=True)):
        before, found, after = frame.partition(_MARK)
        if not (found and _MARK not in after and text.startswith(before) and text.endswith(after)):
            raise InvalidInput(
                f"task {task.slug}, example {task.example_ids[row]}: the template of {rendering.slug} does not show the prompt "
                "just once as it is, so it is not known which tokens are its; leave the position content-mean out"
            )
        spans.append((len(before), len(text) - len(after)))
    return spans


def _chat_texts(task: Task, tokenizer: Any, system: str | None) -> list[str]:
    turns = [] if system is None else [{"role": "system", "content": system}]
    shared = {
        **tokenizer.special_tokens_map,
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "date_string": FROZEN_DATE,
    }
    examples = [shared | {"messages": [*turns, {"role": "user", "content": row["prompt"]}]} for row in task.rows]
    try:
        texts = render_texts(chat_template(tokenizer), examples, kind="chat")
    except TemplateError as error:
        raise Source(
            f"{tokenizer.name_or_path}: the chat template cannot be rendered for task {task.slug}, {error}; "
            "use --render raw, or a jinja file"
        ) from error
    if system is not None and not all(system.strip() in text for text in texts):
        raise Source(f"{tokenizer.name_or_path}: the chat template leaves the system turn out; leave --system out too")
    return texts

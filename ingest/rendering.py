"""Renderings: how an example becomes the text and the tokens that a model sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from actlas.store import InvalidInput, Source, Task
from actlas.store.digest import bytes_digest, json_digest

RenderingName = Literal["raw", "chat"]
RENDERINGS: tuple[RenderingName, ...] = ("raw", "chat")

FROZEN_DATE = "01 Jan 2024"  # templates that ask for today's date would give other activations every day

# Before the template, a macro in the place of its clock: transformers makes text of a function passed to it. The newline
# is dropped (trim_blocks) and lets the template begin on a line of its own.
_FROZEN_CLOCK = "{% macro strftime_now(format) %}" + FROZEN_DATE + "{% endmacro %}\n"


@dataclass(frozen=True, kw_only=True)
class TokenizedTask:
    """The tokens of one task under one rendering.

    Attributes
    ----------
    token_ids : list of list of int
        For each example the tokens that the model sees.
    digests : list of str
        For each example the XXH3-128 of its tokens as little-endian int32.
    n_truncated : int
        Examples of which the beginning was cut to fit the model's context.
    """

    token_ids: list[list[int]]
    digests: list[str]
    n_truncated: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(ids) for ids in self.token_ids]


def rendering_digest(tokenizer: Any, rendering: RenderingName) -> str:
    """Return the digest of a rendering: its kind and, for ``chat``, the template and the frozen date."""
    if rendering == "raw":
        return json_digest({"kind": "raw"})
    return json_digest({"kind": "chat", "template": chat_template(tokenizer), "date": FROZEN_DATE})


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


def tokenize(task: Task, tokenizer: Any, rendering: RenderingName, max_tokens: int | None) -> TokenizedTask:
    """Render and tokenize the prompts of a task.

    Parameters
    ----------
    task : Task
        Its examples.
    tokenizer : transformers tokenizer
        ``raw`` tokenizes the prompt with the tokenizer's own special tokens; ``chat`` renders one user turn and the
        opening of the answer, and adds no special token to those in the template.
    rendering : {"raw", "chat"}
        Which.
    max_tokens : int or None
        The model's context. Longer prompts lose their beginning, never their last token; a leading special token stays.

    Raises
    ------
    InvalidInput
        When an example has no tokens.
    Source
        When the template cannot be rendered.
    """
    prompts = [str(row["prompt"]) for row in task.rows]
    encode = _encode_raw if rendering == "raw" else _encode_chat
    token_ids = encode(prompts, tokenizer)
    for number, ids in enumerate(token_ids):
        if not ids:
            raise InvalidInput(
                f"task {task.slug}, example {task.example_ids[number]}: the prompt {prompts[number]!r:.60} has no tokens "
                "under this tokenizer; leave the example out"
            )
    special = set(tokenizer.all_special_ids)
    kept = [_truncate(ids, max_tokens, special) for ids in token_ids]
    return TokenizedTask(
        token_ids=kept,
        digests=[bytes_digest(np.array(ids, "<i4").tobytes()) for ids in kept],
        n_truncated=sum(len(short) < len(ids) for short, ids in zip(kept, token_ids, strict=True)),
    )


def _truncate(ids: list[int], max_tokens: int | None, special: set[int]) -> list[int]:
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    head = ids[:1] if ids[0] in special and max_tokens > 1 else []
    return head + ids[len(ids) - max_tokens + len(head) :]


def _encode_raw(prompts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    encoded: list[list[int]] = tokenizer(list(prompts), verbose=False)["input_ids"]
    return encoded


def _encode_chat(prompts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    template = _FROZEN_CLOCK + chat_template(tokenizer)
    try:
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                chat_template=template,
                add_generation_prompt=True,
                tokenize=False,
                date_string=FROZEN_DATE,
            )
            for prompt in prompts
        ]
    except Exception as error:  # a template can fail in any way that Python can
        raise Source(f"{tokenizer.name_or_path}: the chat template cannot be rendered ({error})") from error
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return encoded

"""Tokenizing: the texts of a task as the tokens that a model sees, with one BOS, cut to its context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlas.ingest.rendering import Rendering, texts_of
from actlas.store import InvalidInput, Task
from actlas.store.digest import bytes_digest


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


def tokenize(task: Task, tokenizer: Any, rendering: Rendering, max_tokens: int | None) -> TokenizedTask:
    """Render and tokenize the prompts of a task.

    Parameters
    ----------
    task : Task
        Its examples.
    tokenizer : transformers tokenizer
        Texts of ``raw`` and of jinja files get the tokenizer's own special tokens; those of ``chat`` hold all but the
        BOS, which they get where the tokenizer gives one to other texts, and have once in any case.
    rendering : Rendering
        Which.
    max_tokens : int or None
        The model's context. Longer prompts lose their beginning, never their last token; a leading special token stays.

    Raises
    ------
    InvalidInput
        When an example has no tokens, or a jinja file cannot be rendered.
    Source
        When the chat template cannot be rendered.
    """
    texts = texts_of(task, tokenizer, rendering)
    token_ids = _encode(texts, tokenizer, rendering)
    for number, ids in enumerate(token_ids):
        if not ids:
            raise InvalidInput(
                f"task {task.slug}, example {task.example_ids[number]}: the prompt {task.rows[number]['prompt']!r:.60} has "
                "no tokens under this tokenizer; leave the example out"
            )
    special = set(tokenizer.all_special_ids)
    kept = [_truncate(ids, max_tokens, special) for ids in token_ids]
    return TokenizedTask(
        token_ids=kept,
        digests=[bytes_digest(np.array(ids, "<i4").tobytes()) for ids in kept],
        n_truncated=sum(len(short) < len(ids) for short, ids in zip(kept, token_ids, strict=True)),
    )


def _encode(texts: Sequence[str], tokenizer: Any, rendering: Rendering) -> list[list[int]]:
    is_chat = rendering.kind == "chat"
    encoded: list[list[int]] = tokenizer(list(texts), add_special_tokens=not is_chat, verbose=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if rendering.kind == "raw" or bos is None:
        return encoded
    # What the tokenizer puts before a text says whether its model knows texts that begin without a BOS.
    is_wanted = is_chat and tokenizer("a", verbose=False)["input_ids"][:1] == [bos]
    is_given = is_wanted and not all(bos in ids for ids in encoded)  # a template may put it elsewhere
    return [_with_one_bos(ids, bos, is_given=is_given) for ids in encoded]


def _with_one_bos(ids: list[int], bos: int, *, is_given: bool) -> list[int]:
    n_bos = next((place for place, token in enumerate(ids) if token != bos), len(ids))
    return [bos] * bool(n_bos or (is_given and ids)) + ids[n_bos:]


def _truncate(ids: list[int], max_tokens: int | None, special: set[int]) -> list[int]:
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    head = ids[:1] if ids[0] in special and max_tokens > 1 else []
    return head + ids[len(ids) - max_tokens + len(head) :]

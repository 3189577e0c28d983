"""Tokenizing: the texts of a task as the tokens that a model sees, with one BOS, cut to its context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlas.ingest.positions import CONTENT, Parts, Span
from actlas.ingest.rendering import Rendering, contents_of, texts_of
from actlas.store import InvalidInput, Source, Task
from actlas.store.digest import bytes_digest


@dataclass(frozen=True, kw_only=True)
class TokenizedTask:
    """The tokens of one task under one rendering.

    Attributes
    ----------
    token_ids : list of list of int
        For each example the tokens that the model sees.
    parts : list of Parts
        For each example what these are.
    digests : list of str
        For each example the XXH3-128 of its tokens as little-endian int32.
    n_truncated : int
        Examples of which the beginning was cut to fit the model's context.
    has_targets : bool
        Whether targets follow the prompts.
    n_apart : int
        Targets that were tokenized apart from their prompt, because the last tokens of the prompt run into them.
    """

    token_ids: list[list[int]]
    parts: list[Parts]
    digests: list[str]
    n_truncated: int
    has_targets: bool = False
    n_apart: int = 0

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(ids) for ids in self.token_ids]

    @property
    def n_target_tokens(self) -> list[int] | None:
        """Tokens of each target; None where prompts are run alone."""
        if not self.has_targets:
            return None
        return [len(ids) - parts.n_prompt for ids, parts in zip(self.token_ids, self.parts, strict=True)]


def tokenize(
    task: Task,
    tokenizer: Any,
    rendering: Rendering,
    max_tokens: int | None,
    *,
    with_content: bool = False,
    has_decoder: bool = False,
) -> TokenizedTask:
    """Render and tokenize the examples of a task.

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
    with_content : bool
        Find which tokens hold the example's own text; a token that it shares with the template counts.
    has_decoder : bool
        Whether a decoder reads the targets, which then are texts of their own and take no room from their prompts.

    Raises
    ------
    InvalidInput
        When an example has no tokens, a target is empty or leaves no room for its prompt, or a jinja file cannot be
        rendered.
    Source
        When the chat template cannot be rendered, or the tokenizer cannot tell which characters a token is.
    """
    texts = texts_of(task, tokenizer, rendering)
    prompts = _encode(texts, tokenizer, rendering)
    _check_not_empty(task, prompts, "prompt")
    contents = _content_tokens(task, texts, prompts, tokenizer, rendering) if with_content else None
    targets, n_apart = None, 0
    if rendering.with_target and has_decoder:
        targets = _alone(task, tokenizer)
    elif rendering.with_target:
        targets, n_apart = _targets(task, texts, prompts, tokenizer, rendering)
    special = set(tokenizer.all_special_ids)
    token_ids, parts = [], []
    for row, prompt in enumerate(prompts):
        target = [] if targets is None else targets[row]
        room = _room(task, row, max_tokens, len(target))
        kept = _truncate(prompt, max_tokens if has_decoder else room, special)
        token_ids.append(kept + target)
        parts.append(
            Parts(len(kept), None if contents is None else _moved(task, row, contents[row], len(prompt), kept))
        )
    return TokenizedTask(
        token_ids=token_ids,
        parts=parts,
        digests=[bytes_digest(np.array(ids, "<i4").tobytes()) for ids in token_ids],
        n_truncated=sum(one.n_prompt < len(ids) for one, ids in zip(parts, prompts, strict=True)),
        has_targets=rendering.with_target,
        n_apart=n_apart,
    )


def _check_not_empty(task: Task, token_ids: Sequence[Sequence[int]], what: str) -> None:
    for row, ids in enumerate(token_ids):
        if not ids:
            raise InvalidInput(
                f"task {task.slug}, example {task.example_ids[row]}: the {what} {task.rows[row][what]!r:.60} has "
                "no tokens under this tokenizer; leave the example out"
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


def _room(task: Task, row: int, max_tokens: int | None, n_target: int) -> int | None:
    """Return how many tokens a prompt may have beside its target."""
    if max_tokens is None:
        return None
    if n_target >= max_tokens:
        raise InvalidInput(
            f"task {task.slug}, example {task.example_ids[row]}: the target has {n_target} tokens, the model's context is "
            f"{max_tokens}: no room is left for the prompt; leave the example out"
        )
    return max_tokens - n_target


def _targets(
    task: Task, texts: Sequence[str], prompts: Sequence[list[int]], tokenizer: Any, rendering: Rendering
) -> tuple[list[list[int]], int]:
    """Return the tokens that follow each prompt when its target is written behind it, and how many stand apart.

    The prompt's tokens are those of the prompt alone, so that every position on it is what it is without the target.
    """
    targets = [str(row["target"]) for row in task.rows]
    whole = [_joined(text, target, rendering.joint) for text, target in zip(texts, targets, strict=True)]
    found, n_apart = [], 0
    for prompt, ids, target in zip(prompts, _encode(whole, tokenizer, rendering), targets, strict=True):
        if ids[: len(prompt)] == prompt:
            found.append(ids[len(prompt) :])
        else:
            found.append(list(tokenizer(target, add_special_tokens=False, verbose=False)["input_ids"]))
            n_apart += 1
    _check_not_empty(task, found, "target")
    return found, n_apart


def _alone(task: Task, tokenizer: Any) -> list[list[int]]:
    """Return the tokens of targets that no prompt precedes, without special ones."""
    texts = [str(row["target"]) for row in task.rows]
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    _check_not_empty(task, found, "target")
    return found


def _joined(text: str, target: str, joint: str) -> str:
    has_space = text[-1:].isspace() or target[:1].isspace()
    return text + ("" if has_space else joint) + target


def _content_tokens(
    task: Task, texts: Sequence[str], prompts: Sequence[list[int]], tokenizer: Any, rendering: Rendering
) -> list[Span]:
    """Return which tokens of each prompt overlap with the example's own text."""
    if not tokenizer.is_fast:
        raise Source(
            f"{tokenizer.name_or_path}: this tokenizer cannot say which characters a token is, so the position {CONTENT} means "
            "nothing; leave it out"
        )
    spans = contents_of(task, texts, tokenizer, rendering)
    encoded = tokenizer(
        list(texts), add_special_tokens=rendering.kind != "chat", return_offsets_mapping=True, verbose=False
    )["offset_mapping"]
    found = []
    for row, (prompt, characters, (start, stop)) in enumerate(zip(prompts, encoded, spans, strict=True)):
        moved = len(prompt) - len(characters)  # by a BOS that was put before, or taken away
        inside = [place + moved for place, (a, b) in enumerate(characters) if a < b and a < stop and b > start]
        if not inside:
            raise _no_content(task, row)
        found.append((inside[0], inside[-1] + 1))
    return found


def _moved(task: Task, row: int, content: Span, n_tokens: int, kept: Sequence[int]) -> Span:
    """Return where the content stands after the prompt's beginning was cut; a leading token that stays is none of it."""
    n_cut = n_tokens - len(kept)
    if n_cut == 0:
        return content
    start, stop = max(content[0] - n_cut, 1), content[1] - n_cut
    if start >= stop:
        raise _no_content(task, row)
    return start, stop


def _no_content(task: Task, row: int) -> InvalidInput:
    return InvalidInput(
        f"task {task.slug}, example {task.example_ids[row]}: none of the tokens that the model sees holds the example's own "
        f"text, so the position {CONTENT} means nothing; leave it, or the example, out"
    )

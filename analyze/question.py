"""What a comparison asks for, apart from where it is computed and with how much memory."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actlas.analyze.choice import EVERY_ROW, RowChoice
from actlas.analyze.requests import parse_request
from actlas.analyze.selection import are_matched
from actlas.store import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a comparison asks for.

    Attributes
    ----------
    models : tuple of str
        ``model`` or ``model:rendering``, each with or without ``@dtype`` or ``@key``.
    tasks : tuple of str or None
        Names or glob patterns; None for all.
    pairs : str
        ``all`` pairs of models, ``ref:MODEL`` with each of the others, or ``consecutive`` ones in the order given.
    layers : str
        ``matched``: each layer with the same layer of the other model; a list such as ``0,8,16:``: these alone, matched;
        ``relative``: each layer of the shallower model with the one at the same relative depth; ``all``: every pair of
        layers, also inside each model.
    position : str
        Of which position the entries are.
    metrics : tuple of str
        Metrics beside CKA, as `parse_request` reads them.
    rows : RowChoice
        Which examples.
    differences : bool
        Also the difference of any two CKAs that share a model, with its paired error.
    baselines : bool
        Also each model against its layer 0, its prompts' lengths and their templates.
    null : bool
        Also spread and skewness of the biased CKA over all permutations of rows, and the p-value by them.
    audit : bool
        Also what a few features or one row do to CKA.
    behaviour : bool
        Also how alike the models' outputs are, where their entries keep them.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...] | None = None
    pairs: str = "all"
    layers: str = "matched"
    position: str = "last"
    metrics: tuple[str, ...] = ()
    rows: RowChoice = EVERY_ROW
    differences: bool = False
    baselines: bool = False
    null: bool = False
    audit: bool = False
    behaviour: bool = False

    def __post_init__(self) -> None:
        for text in self.metrics:
            parse_request(text)
        if self.layers not in ("matched", "relative", "all") and not re.fullmatch(r"[-0-9:, ]+", self.layers):
            raise InvalidInput(
                f"layers: expected matched, relative, all, or a list such as 0,8,16 or 0:33:2, got {self.layers!r}"
            )
        if self.differences and not self.matches_layers:
            raise InvalidInput(
                f"differences compare a layer with the same layer of two other models; got layers {self.layers!r}"
            )

    @classmethod
    def of(
        cls,
        models: Sequence[str],
        *,
        tasks: str | Sequence[str] | None = None,
        metrics: Sequence[str] = (),
        where: str | None = None,
        match_n: int | None = None,
        seed: int = 0,
        min_shared: float = 0.0,
        **options: Any,
    ) -> "Question":
        """Return a question in the words of `compare`."""
        return cls(
            models=tuple(models),
            tasks=(tasks,) if isinstance(tasks, str) else None if tasks is None else tuple(tasks),
            metrics=tuple(dict.fromkeys(metrics)),
            rows=RowChoice(where=where, match_n=match_n, seed=seed, min_shared=min_shared),
            **options,
        )

    @property
    def matches_layers(self) -> bool:
        """Whether a layer is compared with the same layer of the other model only."""
        return are_matched(self.layers)

    @property
    def about_a_pair(self) -> dict[str, Any]:
        """What the numbers of one pair of entries depend on, apart from the entries."""
        beside = {name: getattr(self, name) for name in ("null", "audit", "behaviour")}
        return {"layers": self.layers, "metrics": list(self.metrics), "rows": asdict(self.rows), **beside}

    @property
    def whole(self) -> list[str]:
        """What needs both representations of a pair, or their Gram matrices, whole in memory."""
        return [*self.metrics, *(["null"] if self.null else [])]

"""Agreement of what two models put out at the last token of each prompt, where their entries keep outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actlas.analyze.hsic import Float64, jackknife_error
from actlas.analyze.representation import Array, Rows
from actlas.store import Entry, InvalidInput, Mismatch, NotFound

Outputs = Mapping[str, Array]

_ROUNDING = 8 * float(np.finfo(np.float32).eps)  # of a probability, relative, for each unit of its logit


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over examples.

    Attributes
    ----------
    value : float
        The mean; NaN over no examples.
    se : float
        Its standard error, by the jackknife over examples or over groups of them; NaN for under two.
    n : int
        Examples for which the quantity is defined.
    """

    value: float
    se: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How alike two models behave on the same examples.

    Attributes
    ----------
    top_agreement : Mean
        Share of the examples whose most likely next token is the same; of equal logits the lowest token counts.
    kl : Mean
        Lower bound, in nats, of the Kullback-Leibler divergence KL(a || b) of the next token.

        It is the divergence between the two distributions over these bins: every token whose logit both entries
        store, and one for all other tokens. Merging outcomes never raises a divergence (the data-processing
        inequality, Cover and Thomas 2006, section 2.8), so the full one is at least as large.
    shared_mass : Mean
        Probability that a gives to the tokens that both store: the nearer to 1, the tighter is the bound.
    nll_difference : Mean
        Negative log-likelihood of the target, summed over its tokens, of b minus that of a, in nats.
    """

    top_agreement: Mean
    kl: Mean
    shared_mass: Mean
    nll_difference: Mean


def behaviour(
    entry_a: Entry, entry_b: Entry, rows_a: Rows, rows_b: Rows, groups: Sequence[object] | None = None
) -> Behaviour:
    """Compare the outputs of two entries.

    Examples for which an output of either model is not finite are left out of the means over it.

    Parameters
    ----------
    entry_a, entry_b : Entry
        Entries with outputs, of models with one tokenizer.
    rows_a, rows_b : (n,) int
        Where the same examples stand in each.
    groups : sequence of length n, optional
        The group of each example, such as its source; every example alone by default.

    Raises
    ------
    Mismatch
        When the tokenizers differ: a token of one is not a token of the other.
    NotFound
        When an entry keeps no outputs.
    InvalidInput
        When rows and groups are not of one length.
    Corrupt, Incomplete
        When stored outputs are damaged.
    """
    _check(entry_a, entry_b)
    groups = range(len(rows_a)) if groups is None else groups
    if not len(rows_a) == len(rows_b) == len(groups):
        raise InvalidInput(
            f"expected one row of each entry and one group an example, got {len(rows_a)} rows of {entry_a.label}, "
            f"{len(rows_b)} of {entry_b.label} and {len(groups)} groups"
        )
    a, b = _rows(entry_a, rows_a), _rows(entry_b, rows_b)
    known = np.isfinite(a["log_sum_exp"]) & np.isfinite(b["log_sum_exp"])
    numbers = _group_numbers(groups)
    divergence, shared_mass = _divergence(a, b)
    return Behaviour(
        top_agreement=_mean(np.where(known, _top_token(a) == _top_token(b), np.nan), numbers),
        kl=_mean(np.where(known, divergence, np.nan), numbers),
        shared_mass=_mean(np.where(known, shared_mass, np.nan), numbers),
        nll_difference=_mean(_finite(b["target_nll"]) - _finite(a["target_nll"]), numbers),
    )


def _check(a: Entry, b: Entry) -> None:
    if a.identity.tokenizer_digest != b.identity.tokenizer_digest:
        raise Mismatch(
            f"expected models with one tokenizer, got {a.label} and {b.label}, whose tokenizers differ; behaviour can be "
            "compared token by token only, so leave it out for this pair"
        )
    for entry in (a, b):
        if not entry.has_outputs:
            raise NotFound(f"{entry.label}: keeps no outputs; ingest the model with --outputs")


def _rows(entry: Entry, rows: Rows) -> Outputs:
    return {name: data[rows] for name, data in entry.outputs.items()}


def _group_numbers(groups: Sequence[object]) -> npt.NDArray[np.intp]:
    first_seen: dict[object, int] = {}
    return np.array([first_seen.setdefault(group, len(first_seen)) for group in groups], np.intp)


def _finite(values: Array) -> Float64:
    return np.where(np.isfinite(values), values.astype(np.float64), np.nan)


def _mean(values: Float64, group_of: npt.NDArray[np.intp]) -> Mean:
    """Return the mean of the values that are not NaN, and its delete-one-group jackknife error."""
    is_known = ~np.isnan(values)
    values, n = values[is_known], int(is_known.sum())
    if n == 0:
        return Mean(value=float("nan"), se=float("nan"), n=0)
    _, group_of = np.unique(group_of[is_known], return_inverse=True)
    sizes, total = np.bincount(group_of), values.sum()
    if len(sizes) == 1 or not np.isfinite(total):
        return Mean(value=float(total / n), se=float("nan"), n=n)
    left_out = (total - np.bincount(group_of, weights=values)) / (n - sizes)
    return Mean(value=float(total / n), se=jackknife_error(left_out), n=n)


def _top_token(outputs: Outputs) -> Array:
    """Return the lowest of the tokens with the largest logit: in bfloat16 many are equal, and which comes first is chance."""
    token, logit = outputs["top_token"], outputs["top_logit"]
    return np.asarray(np.where(logit == logit[:, :1], token, np.iinfo(token.dtype).max).min(axis=1))


def _divergence(a: Outputs, b: Outputs) -> tuple[Float64, Float64]:
    """Return for every example the bound of KL(a || b), and the probability that a gives to the tokens in both, (n,)."""
    from scipy.special import rel_entr  # slow to import

    in_a, in_b = _shared_tokens(a["top_token"], b["top_token"])
    p, q = _probabilities(a), _probabilities(b)
    n, example = len(p), in_a // p.shape[1]

    def over_shared(weights: Float64) -> Float64:
        return np.bincount(example, weights=weights, minlength=n).astype(np.float64)

    rest_p, rest_q = _rest(a, p, in_a), _rest(b, q, in_b)
    p, q = p.ravel()[in_a], q.ravel()[in_b]
    return over_shared(rel_entr(p, q)) + rel_entr(rest_p, rest_q), over_shared(p)


def _shared_tokens(a: Array, b: Array) -> tuple[Rows, Rows]:
    """Return where the tokens that stand in the same row of both are, as places in the flattened arrays."""
    stride = 1 + max(int(a.max(initial=0)), int(b.max(initial=0)))
    keys_a, keys_b = ((np.arange(len(side))[:, None] * stride + side).ravel() for side in (a, b))
    _, in_a, in_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
    return in_a, in_b


def _probabilities(outputs: Outputs) -> Float64:
    log_sum_exp = _finite(outputs["log_sum_exp"])
    return np.exp(outputs["top_logit"].astype(np.float64) - log_sum_exp[:, None])


def _rest(outputs: Outputs, probabilities: Float64, shared: Rows) -> Float64:
    """Return the mass of all tokens but the shared: of stored ones as it is, of the others what is missing to 1.

    What is missing is known only to the rounding of float32 logits, and where it is less, a logarithm of it would be one
    of noise: there it is taken to be as large as that.
    """
    alone = probabilities.copy()
    alone.ravel()[shared] = 0
    rounding = _ROUNDING * np.maximum(1, np.abs(_finite(outputs["log_sum_exp"])))
    return np.asarray(alone.sum(axis=1) + np.maximum(1 - probabilities.sum(axis=1), rounding))

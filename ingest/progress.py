"""What an ingest tells while it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What an ingest will do.

    Attributes
    ----------
    n_entries, n_present : int
        Entries to compute, and entries that are there already.
    n_examples, n_tokens, n_padded : int
        Prompts, their tokens, and tokens computed, padding counted, over all entries to compute.
    n_bytes : int
        Bytes of hidden states before compression.
    free_bytes : int
        Free disk where the store is.
    least_seconds : float
        Time of the forward passes at the rate of this device's matrix products: nothing can be faster.
    operations_per_token : float
        Two for each parameter, the mean over the checkpoints; attention between tokens is left out.
    peak_operations : float or None
        The most operations a second that the device can do, where it is known.
    """

    n_entries: int
    n_present: int
    n_examples: int
    n_tokens: int
    n_padded: int
    n_bytes: int
    free_bytes: int
    least_seconds: float
    operations_per_token: float
    peak_operations: float | None


class Progress:
    """Listens to an ingest; this one says nothing. Subclass it to show something."""

    def start(self, forecast: Forecast) -> None:
        """Call once, before any model runs."""

    def note(self, message: str) -> None:
        """Call for what the user should know: duplicates, truncation, entries that are there."""

    def entry(self, label: str) -> None:
        """Call when an entry begins."""

    def advance(self, n_examples: int, n_tokens: int, n_padded: int) -> None:
        """Call after every batch."""

    def skip(self, n_examples: int, n_padded: int) -> None:
        """Call when examples need no work, because an interrupted ingest left them."""

    def wrote(self, n_bytes: int) -> None:
        """Call when a superblock is on the disk, from another thread."""

    def waiting(self, stage: str, seconds: float) -> None:
        """Call when the forward pass had to wait for a later stage: ``copying`` or ``writing``."""

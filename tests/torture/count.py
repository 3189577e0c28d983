"""What a fault test saw: how often it did harm, and what came of it."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Count:
    """The outcome of one run; that nothing else happened is asserted inside the run.

    Attributes
    ----------
    rounds : int
        How often harm was done.
    seen : mapping
        What happened, and how often.
    """

    rounds: int
    seen: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return ", ".join(f"{number:,} {what}" for what, number in sorted(self.seen.items()) if number)


def total(counts: list[Count]) -> Count:
    """Return several outcomes as one."""
    return Count(sum(count.rounds for count in counts), sum((count.seen for count in counts), Counter()))

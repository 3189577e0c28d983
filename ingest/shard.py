"""Shards: the entries of one ingest dealt to several processes, the same way in each of them."""

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from actlas.ingest.jobs import Job, Resident, passes
from actlas.store import InvalidInput

_SLACK = 1.05  # a shard may hold so much more than its share, that checkpoints need not be loaded twice


@dataclass(frozen=True)
class Shard:
    """One of several shares.

    Attributes
    ----------
    number, total : int
        The `number`-th of `total`, counted from 1.
    """

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def parse_shard(text: str) -> Shard:
    """Return the shard that is written ``2/8``.

    Raises
    ------
    InvalidInput
        For anything else, and for numbers outside 1 to N.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InvalidInput(f"--shard {text!r}: expected I/N with I from 1 to N, such as 1/8, 2/8, ... and 8/8")
    return Shard(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class _Item:
    """What is dealt: the entries of one pass, whose they are, and what they cost."""

    owner: tuple[str, str]
    jobs: tuple[Job, ...]

    @property
    def key(self) -> tuple[str, ...]:
        return (*self.owner, self.jobs[0].task.slug, self.jobs[0].rendering)

    @property
    def cost(self) -> int:
        return self.jobs[0].plan.n_padded


_Group = tuple[_Item, ...]


def take_shard(residents: Sequence[Resident], shard: Shard) -> None:
    """Leave in `residents` the jobs of one shard; all of an ingest's entries must be there, also those that are done."""
    mine = set(deal(residents, shard.total)[shard.number - 1])
    for resident in residents:
        for run in resident.runs:
            run.jobs[:] = [job for job in run.jobs if job in mine]


def shares_of(residents: Sequence[Resident], n_shares: int) -> list[list[Resident]]:
    """Return all jobs dealt to `n_shares` shares, each with those bases and checkpoints alone that it needs."""
    return [_only(residents, set(jobs)) for jobs in deal(residents, n_shares)]


def _only(residents: Sequence[Resident], mine: set[Job]) -> list[Resident]:
    kept = [
        replace(resident, runs=[replace(run, jobs=[job for job in run.jobs if job in mine]) for run in resident.runs])
        for resident in residents
    ]
    return [replace(resident, runs=runs) for resident in kept if (runs := [run for run in resident.runs if run.jobs])]


def deal(residents: Sequence[Resident], n_shards: int) -> list[list[Job]]:
    """Deal all jobs to `n_shards` shares of nearly equal padded tokens, whatever their order.

    Bases, and then checkpoints, stay whole as long as no share is over 5 percent larger than the mean for it.
    """
    items = [
        _Item((resident.base.digest, run.checkpoint.slug), tuple(jobs))
        for resident in residents
        for run in resident.runs
        for jobs in passes(run.jobs)
    ]
    if not items:
        return [[] for _ in range(n_shards)]
    ordered = tuple(sorted(items, key=lambda item: item.key))
    groups = _by_base(ordered)
    share = _cost(ordered) / n_shards
    largest = share
    while True:
        shares = _longest_first(groups, n_shards)
        heaviest = max(sum(_cost(group) for group in one) for one in shares)
        if heaviest <= _SLACK * share or all(len(group) == 1 for group in groups):
            return [[job for group in one for item in group for job in item.jobs] for one in shares]
        groups = [part for group in groups for part in _split(group, largest)]
        largest /= 2


def _by_base(items: _Group) -> list[_Group]:
    bases = dict.fromkeys(item.owner[0] for item in items)
    return [tuple(item for item in items if item.owner[0] == base) for base in bases]


def _cost(group: _Group) -> int:
    return sum(item.cost for item in group)


def _split(group: _Group, largest: float) -> Iterator[_Group]:
    """Halve a group until no part costs more than `largest`: between checkpoints, or inside one that is alone."""
    if len(group) == 1 or _cost(group) <= largest:
        yield group
        return
    places = range(1, len(group))
    between = [place for place in places if group[place - 1].owner != group[place].owner] or places
    costs = [0]
    for item in group:
        costs.append(costs[-1] + item.cost)
    middle = min(between, key=lambda place: abs(2 * costs[place] - costs[-1]))
    yield from _split(group[:middle], largest)
    yield from _split(group[middle:], largest)


def _longest_first(groups: Sequence[_Group], n_shards: int) -> list[list[_Group]]:
    """Give the longest group that is left to the share that has least."""
    shares: list[list[_Group]] = [[] for _ in range(n_shards)]
    heap = [(0, number) for number in range(n_shards)]
    for group in sorted(groups, key=lambda group: (-_cost(group), group[0].key)):
        cost, number = heapq.heappop(heap)
        shares[number].append(group)
        heapq.heappush(heap, (cost + _cost(group), number))
    return shares

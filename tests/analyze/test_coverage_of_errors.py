"""Whether value +- 1.96 se of a difference of two debiased CKAs covers the truth, for single rows and for groups of rows."""

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from actlas.analyze.cka import finalise
from actlas.analyze.engine import run_pass
from actlas.analyze.hsic import (
    PairSums,
    UTile,
    difference_error,
    jackknife_error,
    leave_group_out,
    ratio,
    tile_sums,
    u_tile,
    with_group_sums,
)
from actlas.analyze.representation import ArrayRepresentation
from actlas.analyze.tiling import make_tiling

N_ROWS, N_FEATURES, N_LATENT = 200, 50, 4
ALONE, BY_TEN = N_ROWS, N_ROWS // 10


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):  # products of 200 rows take ten times as long when threads wait for each other
        yield


class Simulation:
    """Models x, y and z of a latent (n, 4) each: y has that of x, z half of it and half of its own, all with noise.

    `shared` is the share of the variance of every latent and every noise that the rows of a group have in common.
    """

    def __init__(self, seed: int, n_groups: int, shared: float = 0.0):
        self.shared, self.random = shared, np.random.default_rng(seed)
        self.mixings = self.random.normal(size=(3, N_LATENT, N_FEATURES))
        self.group_of_row = np.arange(N_ROWS) * n_groups // N_ROWS

    @property
    def truth(self) -> float:
        """CKA(x, y) - CKA(x, z) of the population: ratios of squared norms of covariances."""
        A, B, C = self.mixings
        sides = [np.linalg.norm(mixing.T @ mixing + np.eye(N_FEATURES)) for mixing in self.mixings]
        to_y, to_z = np.linalg.norm(A.T @ B) ** 2, np.linalg.norm(A.T @ C) ** 2 / 2
        return float(to_y / sides[0] / sides[1] - to_z / sides[0] / sides[2])

    def draw(self) -> list[np.ndarray]:
        own_x, own_z = self._normal(N_LATENT), self._normal(N_LATENT)
        latents = [own_x, own_x, np.sqrt(0.5) * (own_x + own_z)]
        return [z @ mixing + self._normal(N_FEATURES) for z, mixing in zip(latents, self.mixings, strict=True)]

    def _normal(self, width: int) -> np.ndarray:
        of_group = self.random.normal(size=(self.group_of_row[-1] + 1, width))[self.group_of_row]
        return np.sqrt(self.shared) * of_group + np.sqrt(1 - self.shared) * self.random.normal(size=(N_ROWS, width))


def left_out(
    sides: list[np.ndarray], pairs: list[tuple[int, int]], group_of_row: np.ndarray
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield debiased CKA of every pair and its values without each group: the engine's arithmetic over one tile."""
    n_groups = group_of_row[-1] + 1
    Z = np.eye(n_groups)[group_of_row] if n_groups < len(group_of_row) else None
    tiles = [_tile(side, Z) for side in sides]
    sums = {pair: _sums(tiles, pair, Z) for pair in {*pairs, *((side, side) for side in range(len(sides)))}}
    within = [np.zeros(n_groups) if tile.within is None else tile.within for tile in tiles]
    left = {(a, b): leave_group_out(of_pair, within[a], within[b], group_of_row) for (a, b), of_pair in sums.items()}
    for a, b in pairs:
        terms = ((a, b), (a, a), (b, b))
        yield float(ratio(*(sums[term].total for term in terms))), ratio(*(left[term] for term in terms))


def _tile(side: np.ndarray, Z: np.ndarray | None) -> UTile:
    centred = side - side.mean(axis=0)
    k = np.einsum("ij,ij->i", centred, centred)
    P = u_tile(centred, centred, k, k, k.sum(), len(k), diagonal=True)
    return UTile(values=P) if Z is None else with_group_sums(P, Z, Z, diagonal=True)


def _sums(tiles: list[UTile], pair: tuple[int, int], Z: np.ndarray | None) -> PairSums:
    sums = tile_sums(tiles[pair[0]], tiles[pair[1]], Z, diagonal=True)
    if Z is None:
        return PairSums(rows=sums.rows_i, cross=sums.rows_i, within=np.zeros(1))
    return PairSums(rows=sums.rows_i, cross=sums.cross_i, within=sums.within_i)


def errors(simulation: Simulation, n_simulations: int, group_of_row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return estimated minus true difference, and its standard error over the given groups, of every simulation."""
    found = []
    for _ in range(n_simulations):
        (a, without_a), (b, without_b) = left_out(simulation.draw(), [(0, 1), (0, 2)], group_of_row)
        found.append((a - b - simulation.truth, difference_error(without_a, without_b)))
    off, se = np.array(found).T
    return off, se


def coverage(off: np.ndarray, se: np.ndarray) -> float:
    return float((np.abs(off) < 1.96 * se).mean())


@pytest.mark.parametrize(("n_groups", "shared"), [(ALONE, 0.0), (BY_TEN, 0.3)])
def test_one_tile_is_what_the_engine_computes(n_groups: int, shared: float):
    simulation = Simulation(0, n_groups, shared)
    sides, tiling = simulation.draw(), make_tiling(simulation.group_of_row.tolist())
    rows, pairs = np.arange(N_ROWS), [(0, 1), (0, 2)]
    result = run_pass([ArrayRepresentation(side) for side in sides], [rows] * 3, pairs, tiling, dtype=np.float64)
    cells = finalise(result, pairs, tiling, widths=[N_FEATURES] * 3)
    for cell, (value, without) in zip(cells, left_out(sides, pairs, simulation.group_of_row), strict=True):
        assert value == pytest.approx(cell.cka, abs=1e-12)
        assert jackknife_error(without) == pytest.approx(cell.se, rel=1e-9)


@pytest.mark.parametrize(("n_groups", "shared"), [(ALONE, 0.0), (BY_TEN, 0.3)])
def test_the_interval_of_a_difference_covers_the_truth(n_groups: int, shared: float):
    simulation = Simulation(1, n_groups, shared)
    assert 0.92 <= coverage(*errors(simulation, 400, simulation.group_of_row)) <= 0.98


def test_rows_of_one_group_taken_for_independent_do_not_cover_it():
    assert coverage(*errors(Simulation(1, BY_TEN, 0.3), 200, np.arange(N_ROWS))) < 0.90


def test_where_twenty_groups_share_most_the_error_is_right_and_the_estimate_is_off():
    """Pairs of rows of one group count as pairs, which debiasing does not take out: no jackknife error says so."""
    simulation = Simulation(1, BY_TEN, 0.8)
    off, se = errors(simulation, 400, simulation.group_of_row)
    assert 0.92 <= coverage(off - off.mean(), se) <= 0.98
    assert se.mean() == pytest.approx(off.std(), rel=0.15)
    assert off.mean() < -0.03


def test_the_error_of_a_difference_sees_what_both_share():
    without_a = np.random.default_rng(0).normal(size=30)
    assert difference_error(without_a, without_a + 1) == pytest.approx(0, abs=1e-12)
    assert difference_error(without_a, -without_a) == pytest.approx(2 * jackknife_error(without_a))
    assert np.isnan(difference_error(without_a, np.append(without_a[1:], np.nan)))

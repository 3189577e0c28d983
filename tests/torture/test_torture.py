"""Every fault ends in the exact data or in an error that names the file: short versions of `make torture`."""

import errno
import random
from pathlib import Path

import pytest

from actlas.store import CODECS, ActError, open_store
from actlas.store.disk import Disk
from actlas.store.layout import create_root, store_exists
from tests.servers import nginx
from tests.store.tiny import problems_of
from tests.torture import (
    bit_flips,
    damaged_files,
    failed_operations,
    full_disks,
    hostile_stores,
    kills,
    power_losses,
    races,
    system_calls,
    zarrs_flips,
)
from tests.torture.failing_disk import FailingDisk
from tests.torture.forgeries import CASES
from tests.torture.phases import PHASES
from tests.torture.schedule import rows
from tests.torture.volatile_disk import VolatileDisk

SEED = 1


@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_at_any_moment_leaves_all_or_nothing_and_the_next_run_completes(phase: str):
    assert kills.run(phase, SEED, rounds=4).rounds == 4


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("code", "lasting"), [(errno.EIO, False), (errno.ENOSPC, True)])
def test_whichever_operation_fails_nothing_wrong_is_seen_and_the_next_run_completes(
    phase: str, code: int, lasting: bool
):
    assert failed_operations.run(phase, SEED, rounds=4, code=code, lasting=lasting).rounds == 4


@pytest.mark.skipif(system_calls.missing() is not None, reason=str(system_calls.missing()))
def test_whichever_system_call_fails_the_error_names_the_file():
    assert system_calls.run("ingest", SEED, rounds=2).rounds == 2


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("order", ["journal", "any"])
def test_after_a_power_loss_what_was_promised_is_there_and_what_is_there_is_exact(
    phase: str, order: power_losses.Order
):
    assert power_losses.run(phase, SEED, rounds=4, order=order).rounds == 4


class ForgetsFiles(VolatileDisk):
    def sync(self, path):
        if path.is_dir():
            super().sync(path)


class ForgetsDirectories(VolatileDisk):
    def sync(self, path):
        if path.is_file():
            super().sync(path)


@pytest.mark.parametrize("careless", [ForgetsFiles, ForgetsDirectories])
def test_a_writer_that_forgets_to_flush_is_found_out(careless: type[VolatileDisk]):
    with pytest.raises((AssertionError, ActError), match=r"lost|JSON|bytes|cannot be read|no readable"):
        power_losses.run("ingest", SEED, rounds=100, order="any", disk_type=careless)


def test_a_store_that_loses_power_while_it_is_made_is_whole_or_can_be_made_again(tmp_path: Path):
    base, seeded, outcomes = tmp_path / "now", random.Random(SEED), set()
    base.mkdir()
    disk = VolatileDisk(base)
    create_root(disk, base / "lab.act", 100)
    for length in range(1, len(disk.log) + 1):
        for number in range(6):
            image = tmp_path / f"image-{length}-{number}"
            disk.lose_power(length, "any", seeded, image)
            outcomes.add(store_exists(image / "lab.act"))
            if store_exists(image / "lab.act"):
                assert problems_of(open_store(image / "lab.act")) == ""
            else:
                create_root(Disk(), image / "lab.act", 100)
    assert outcomes == {True, False}


class HidesErrors(FailingDisk):
    def sync(self, path):
        try:
            super().sync(path)
        except OSError:
            self.is_hit = True


def test_a_writer_that_takes_no_notice_of_a_failed_flush_is_found_out():
    with pytest.raises((AssertionError, ActError), match=r"bytes|not valid JSON"):
        failed_operations.run("commit", SEED, rounds=100, disk_type=HidesErrors)


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_is_never_read_as_a_value_and_verify_names_it(codec: str):
    assert bit_flips.run(codec, "local", SEED, rounds=40).seen["refused on read"] > 20
    assert bit_flips.run(codec, "zarr", SEED, rounds=10).seen["refused on read"] == 10


@pytest.mark.skipif(nginx.missing() is not None, reason=str(nginx.missing()))
@pytest.mark.parametrize("codec", ["none", "blosc-zstd"])
def test_a_flipped_bit_is_never_read_as_a_value_over_http(codec: str):
    assert bit_flips.run(codec, "http", SEED, rounds=40).seen["refused on read"] > 20


def test_a_file_that_is_deleted_cut_or_swapped_is_named():
    seen = damaged_files.run("blosc-zstd", "bfloat16").seen
    assert min(seen["deleted"], seen["swapped"], seen["cut"]) > 10


@pytest.mark.skipif(full_disks.missing() is not None, reason=str(full_disks.missing()))
def test_a_full_disk_is_an_error_that_names_it_and_the_next_run_goes_on():
    assert full_disks.run(SEED, rounds=6).rounds == 6


@pytest.mark.parametrize(
    ("race", "rounds"),
    [(races.run_one_entry, 4), (races.run_one_store, 4), (races.run_many_entries, 2), (races.run_readers, 10)],
)
def test_processes_that_race_do_each_other_no_harm(race, rounds: int):
    assert race(SEED, rounds=rounds).rounds >= rounds


@pytest.mark.parametrize("kind", CASES)
def test_a_hostile_store_is_refused_before_anything_is_allocated_or_run(kind: str):
    assert hostile_stores.run(kind, step=3).rounds > 0


def test_plain_zarr_python_checks_chunks_that_it_reads_in_part():
    assert zarrs_flips.run("zarr", SEED, rounds=10).seen == {"refused": 10}


def test_the_whole_torture_has_no_two_rows_alike():
    names = [(row.fault, row.how) for row in rows(SEED)]
    assert len(names) == len(set(names)) > 60

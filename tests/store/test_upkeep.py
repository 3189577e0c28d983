"""Keeping a store: withdrawing, collecting, labelling, limiting, counting, and saying what is wrong and what to type."""

import getpass
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.cli.main import run
from actlas.store import (
    Corrupt,
    Finding,
    InvalidInput,
    NotFound,
    Store,
    StoreWriter,
    Usage,
    collect,
    create_store,
    examine,
    find_withdrawable,
    open_store,
    open_writer,
    read_limit,
    usage,
    withdraw,
    write_limit,
)
from actlas.store.catalog import read_catalog
from actlas.store.disk import Disk
from actlas.store.documents import seal
from actlas.store.labels import read_labels, write_labels
from actlas.store.storage import LocalStorage
from tests.cli.conftest import tree_digest
from tests.store.tiny import (
    LEAF,
    child_stops_halfway,
    folder,
    long_spec,
    problems_of,
    tiny_spec,
    tiny_task,
    unlock,
    write_superblocks,
    write_tiny,
)

NOBODY = 65534
DAY = 86400.0
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"

RTE = {"model": "pythia", "task": "rte"}


def files_below(directory: Path) -> dict[str, bytes]:
    """Every file, with its bytes."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if not path.is_dir()
    }


def make_older(top: Path, days: float) -> None:
    """Let a path and all below it have been changed some days ago."""
    then = time.time() - days * DAY
    for path in (top, *top.rglob("*")):
        os.utime(path, (then, then))


def trash(root: Path) -> list[Path]:
    return sorted((root / ".trash").iterdir())


def staging(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".staging").iterdir())


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_and_answer(work: Callable[[str], Any], root: str, answers: Any, user: int | None, group: int) -> None:
    """Answer what some work returns, or the traceback; as another user where one is given."""
    try:
        if user is not None:
            os.umask(0o002)
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
        answers.put(work(root))
    except BaseException:
        answers.put(traceback.format_exc())


@pytest.fixture
def as_user(processes: ForkServerContext) -> Callable[..., Any]:
    """Run a function of a store's path as a user who is not root, and return what it returns."""

    def call(work: Callable[[str], Any], root: Path, user: int = NOBODY, group: int = NOBODY) -> Any:
        answers = processes.Queue()
        arguments = (work, str(root), answers, user if os.getuid() == 0 else None, group)
        process = processes.Process(target=run_and_answer, args=arguments)
        process.start()
        answer = answers.get(timeout=60)
        process.join()
        assert not (isinstance(answer, str) and answer.startswith("Traceback")), answer
        return answer

    return call


@pytest.fixture
def root_of_nobody() -> Iterator[Path]:
    """An empty store that a user without privileges can reach, and owns."""
    directory = Path(tempfile.mkdtemp())
    root = create_store(directory / "lab.act").root
    if os.getuid() == 0:
        for path in (directory, root, *root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    yield root
    unlock(directory)
    shutil.rmtree(directory)


# Withdrawing


def test_a_withdrawn_entry_goes_to_the_trash_and_a_tombstone_says_when_by_whom_and_why(full: Store):
    writer, entry = open_writer(full.location), full.entry(**RTE)
    before = files_below(folder(entry))
    tombstone = withdraw(writer, entry.path, why="wrong template")
    assert not folder(entry).exists()
    [trashed] = trash(writer.root)
    assert trashed.name.startswith(entry.path.replace("/", "+") + ".")
    assert files_below(trashed) == before
    assert (tombstone.path, tombstone.id) == (entry.path, entry.id)
    assert (tombstone.who, tombstone.why) == (getpass.getuser(), "wrong template")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(tombstone.when)).total_seconds()) < 60
    assert json.loads((writer.root / f"{entry.path}.withdrawn.json").read_text()) == seal(vars(tombstone))
    assert full.listing().withdrawn == (tombstone,)
    assert read_catalog(LocalStorage(writer.root)) == full.listing()
    assert entry.path not in full.listing().paths
    assert problems_of(full) == ""


def test_readers_learn_when_by_whom_and_why(full: Store):
    writer, who = open_writer(full.location), re.escape(getpass.getuser())

    def gone(model: str, task: str) -> str:
        return rf"\n  models/{model}/{task}/raw-last-\S+ was withdrawn on {STAMP} by {who}: bad {model}"

    def take(model: str, task: str) -> None:
        withdraw(writer, full.entry(model=model, task=task).path, why=f"bad {model}")

    take("pythia", "rte")
    with pytest.raises(
        NotFound, match=rf"no entry of model 'pythia' on task 'rte' .*\n  nothing{gone('pythia', 'rte')}$"
    ):
        full.entry(**RTE)
    take("pythia-dpo", "rte")
    with pytest.raises(NotFound, match=rf"no task 'rte'; there is: boolq{gone('pythia', 'rte')}$"):
        full.entry(**RTE)
    either = f"({gone('pythia-dpo', 'rte')}|{gone('pythia', 'rte')})"
    with pytest.raises(NotFound, match=rf"no task 'rte'; there is: boolq{either}{{2}}$"):
        full.entries(task="rte")
    take("pythia", "boolq")
    both = gone("pythia", "boolq") + gone("pythia", "rte")
    for read in (lambda: full.entry(**RTE), lambda: full.model("pythia"), lambda: full.labels("pythia")):
        with pytest.raises(NotFound, match=rf"no model 'pythia'; did you mean 'pythia-dpo'\?{both}$"):
            read()


def test_without_a_reason_the_line_ends_with_who(full: Store):
    tombstone = withdraw(open_writer(full.location), full.entry(**RTE).path)
    assert tombstone.text.endswith(f"by {getpass.getuser()}")


def test_an_entry_and_its_namesakes_are_withdrawn_each_alone(store: StoreWriter):
    first = write_tiny(store, tiny_spec())
    second = write_tiny(store, tiny_spec(dtype="float16"))
    assert find_withdrawable(store, "pythia/rte", key=second.key[:8]) == [second.path]
    assert find_withdrawable(store, "pythia/rte", key=second.key[:3]) == [second.path]
    withdraw(store, second.path)
    assert store.reader.entry(model="pythia", task="rte").id == first.id
    assert [one.path for one in store.reader.listing().withdrawn] == [second.path]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a manifest of another content": lambda entry: (entry / "manifest.json").write_text("{}"),
    "no manifest": lambda entry: (entry / "manifest.json").unlink(),
    "a missing file": lambda entry: (entry / "mean" / "c.0.0").unlink(),
    "nothing at all": lambda entry: (shutil.rmtree(entry), entry.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("form", ["path", "path below models", "model and task"])
def test_a_damaged_entry_is_withdrawn_and_ingested_again(full: Store, damage: str, form: str):
    writer, entry = open_writer(full.location), full.entry(**RTE)
    DAMAGES[damage](folder(entry))
    named = {
        "path": entry.path,
        "path below models": entry.path.removeprefix("models/"),
        "model and task": "pythia/rte",
    }
    assert find_withdrawable(writer, named[form]) == [entry.path]
    tombstone = withdraw(writer, entry.path)
    assert tombstone.id == (entry.id if damage == "a missing file" else "")
    assert len(trash(writer.root)) == 1
    assert write_tiny(writer, tiny_spec()).id == entry.id
    assert not (writer.root / f"{entry.path}.withdrawn.json").exists()
    assert full.listing().withdrawn == read_catalog(LocalStorage(writer.root)).withdrawn == ()
    assert problems_of(full) == ""


def test_what_was_withdrawn_twice_is_in_the_trash_twice(store: StoreWriter):
    for why in ("first", "second"):
        withdraw(store, write_tiny(store, tiny_spec()).path, why=why)
    assert len(trash(store.root)) == 2
    assert [one.why for one in store.reader.listing().withdrawn] == ["second"]


def test_a_withdrawn_entry_is_taken_back_as_the_help_of_rm_says(full: Store):
    writer, entry = open_writer(full.location), full.entry(**RTE)
    before = tree_digest(folder(entry))
    withdraw(writer, entry.path)
    [trashed] = trash(writer.root)
    trashed.rename(writer.root / trashed.name.rpartition(".")[0].replace("+", "/"))
    collect(writer)
    assert full.entry(**RTE).id == entry.id
    assert [name for name, (mode, _) in tree_digest(folder(entry)).items() if mode & 0o222 and "." not in name] == []
    assert {name: digest for name, (_, digest) in tree_digest(folder(entry)).items()} == {
        name: digest for name, (_, digest) in before.items()
    }
    assert full.listing().withdrawn == ()
    assert read_catalog(LocalStorage(writer.root)) == full.listing()
    assert problems_of(full) == ""


def test_a_key_is_compared_in_all_its_digits(full: Store):
    writer, entry = open_writer(full.location), full.entry(**RTE)
    assert find_withdrawable(writer, "pythia", key=entry.key) == [entry.path]
    other = entry.key[:8] + ("0" if entry.key[8] != "0" else "1")
    with pytest.raises(NotFound, match=f"no entry of 'pythia' whose key begins with '{other}'"):
        find_withdrawable(writer, "pythia", key=other)


def test_what_no_entry_fits_is_not_withdrawn(full: Store):
    writer, path = open_writer(full.location), full.entry(**RTE).path
    before = tree_digest(writer.root)
    for what, key, error, message in (
        ("pithia", "", NotFound, "no model 'pithia'; did you mean 'pythia'"),
        ("pythia/rtf", "", NotFound, "no task 'rtf'; did you mean 'rte'"),
        ("pythia/rte", "zz", NotFound, "no entry of 'pythia/rte' whose key begins with 'zz'; `act ls --long` lists"),
        (f"{path[:-8]}00000000", "", NotFound, "no entry of 'models/pythia/rte/raw-last-00000000'"),
        (f"{path}/mean", "", InvalidInput, "expected MODEL, MODEL/TASK or the path of an entry"),
        ("", "", InvalidInput, "model name '' is not a slug"),
        ("models/", "", InvalidInput, "model name '' is not a slug"),
        ("..", "", InvalidInput, "model name '..' is not a slug"),
    ):
        with pytest.raises(error, match=message):
            find_withdrawable(writer, what, key=key)
    for nothing in (f"{path[:-8]}00000000", "tasks/rte", "models/pythia", "models"):
        with pytest.raises(NotFound, match="nothing stands there; `act ls` lists what there is"):
            withdraw(writer, nothing)
    assert tree_digest(writer.root) == before


def keep_house(root: str) -> tuple[list[str], list[str], str]:
    """Withdraw an entry, ingest it again, withdraw it, collect both, and ingest it once more."""
    writer = open_writer(root)
    ids = []
    for _ in range(2):
        entry = write_tiny(writer, tiny_spec())
        ids.append(entry.id)
        withdraw(writer, entry.path, why="as nobody")
    removed = [leftover.what for leftover in collect(writer, older_than=0)]
    ids.append(write_tiny(writer, tiny_spec()).id)
    return ids, removed, problems_of(writer.reader)


def test_a_user_without_privileges_withdraws_collects_and_ingests_again(root_of_nobody: Path, as_user: Any):
    ids, removed, problems = as_user(keep_house, root_of_nobody)
    assert len(set(ids)) == 1
    assert removed == ["a withdrawn entry"] * 2
    assert problems == ""
    assert trash(root_of_nobody) == []


def ingest_one(root: str) -> str:
    return write_tiny(open_writer(root), tiny_spec()).path


def ingest_another_and_leave_rubbish(root: str) -> str:
    writer = open_writer(root)
    writer.label("pythia", {"seed": 1})
    halfway(writer)
    return write_tiny(writer, tiny_spec(task=tiny_task(3, "boolq"))).path


def take_away(root: str) -> str:
    try:
        withdraw(open_writer(root), find_withdrawable(open_writer(root), "pythia/rte")[0])
    except PermissionError:
        return "not permitted"
    return "withdrawn"


def collect_all(root: str) -> list[str]:
    return [leftover.what for leftover in collect(open_writer(root), older_than=0)]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")
def test_two_users_of_one_group_share_a_store_and_each_withdraws_his_own_entries(root_of_nobody: Path, as_user: Any):
    for path in (root_of_nobody, *root_of_nobody.rglob("*")):
        if path.is_dir():
            path.chmod(0o2775)
    root_of_nobody.parent.chmod(0o755)
    first = as_user(ingest_one, root_of_nobody)
    second = as_user(ingest_another_and_leave_rubbish, root_of_nobody, user=1234)
    assert [entry.path for entry in open_store(root_of_nobody).entries()] == [second, first]
    assert as_user(take_away, root_of_nobody, user=1234) == "not permitted"
    assert open_store(root_of_nobody).entry(**RTE).path == first
    assert list(root_of_nobody.rglob("*.withdrawn.json")) == []
    assert as_user(collect_all, root_of_nobody) == ["an entry under construction"]
    assert as_user(take_away, root_of_nobody) == "withdrawn"
    assert problems_of(open_store(root_of_nobody)) == ""


# Collecting


def halfway(store: StoreWriter) -> None:
    """Leave one superblock of three in staging."""
    spec = long_spec()
    with store.new_entry(spec) as writer:
        write_superblocks(writer, spec, 1)


def test_what_changed_within_seven_days_is_left_alone(full: Store):
    writer = open_writer(full.location)
    withdraw(writer, full.entry(**RTE).path)
    halfway(writer)
    for days, n_removed in ((6.9, 0), (7.1, 2)):
        for path in [*trash(writer.root), *(writer.root / ".staging").iterdir()]:
            make_older(path, days)
        assert len(collect(writer)) == n_removed
    assert trash(writer.root) == staging(writer.root) == []


def test_the_age_of_a_withdrawn_entry_counts_from_its_withdrawal(full: Store):
    writer, entry = open_writer(full.location), full.entry(**RTE)
    make_older(folder(entry), 1000)
    withdraw(writer, entry.path)
    assert collect(writer) == []
    assert len(trash(writer.root)) == 1


def test_one_fresh_file_keeps_what_is_old_around_it(store: StoreWriter):
    halfway(store)
    for path in (store.root / ".staging").iterdir():
        make_older(path, 30)
    os.utime(next((store.root / ".staging").rglob("c.0.0.0")))
    assert collect(store) == []


def test_what_a_living_process_writes_is_left_alone_and_is_collected_when_it_is_killed(
    store: StoreWriter, processes: ForkServerContext
):
    answers = processes.Queue()
    process = processes.Process(target=child_stops_halfway, args=(str(store.root), answers))
    process.start()
    assert answers.get(timeout=60) == "begin"
    for path in (store.root / ".staging").iterdir():
        make_older(path, 1000)
    before = tree_digest(store.root / ".staging")
    assert collect(store, older_than=0) == []
    assert tree_digest(store.root / ".staging") == before
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    [leftover] = collect(store, older_than=0)
    assert (leftover.what, leftover.in_use) == ("an entry under construction", False)
    assert leftover.n_bytes > LEAF * 3 * 32
    assert staging(store.root) == []


def test_a_dry_run_says_what_would_go_and_changes_nothing(full: Store):
    writer = open_writer(full.location)
    withdraw(writer, full.entry(**RTE).path)
    halfway(writer)
    (writer.root / "catalog.json").unlink()
    before = tree_digest(writer.root)
    announced = collect(writer, older_than=0, dry_run=True)
    assert tree_digest(writer.root) == before
    removed = collect(writer, older_than=0)
    assert [(one.path, one.n_bytes) for one in announced] == [(one.path, one.n_bytes) for one in removed]
    assert {one.what for one in removed} == {"an entry under construction", "a withdrawn entry"}
    assert {one.path.parent.name for one in removed} == {".staging", ".trash"}


def test_an_entry_is_never_collected_however_old_or_damaged(full: Store):
    root = Path(full.location)
    DAMAGES["no manifest"](folder(full.entry(model="pythia", task="boolq")))
    DAMAGES["a manifest of another content"](folder(full.entry(model="pythia-dpo", task="boolq")))
    make_older(root, 10_000)
    before = files_below(root / "models") | files_below(root / "tasks")
    assert collect(open_writer(root), older_than=0) == []
    assert files_below(root / "models") | files_below(root / "tasks") == before


@pytest.mark.parametrize("state", ["missing", "corrupt", "stale", "of a newer format"])
def test_a_catalogue_that_is_not_right_is_no_matter_here_and_is_made_anew(full: Store, state: str):
    root, entry = Path(full.location), full.entry(**RTE)
    before = full.listing()
    if state == "missing":
        (root / "catalog.json").unlink()
    elif state == "corrupt":
        (root / "catalog.json").write_text('{"format": 1, "entries": []}')
    elif state == "stale":
        withdraw(open_writer(root), entry.path)
        stale = (root / "catalog.json").read_bytes()
        write_tiny(open_writer(root), tiny_spec())
        (root / "catalog.json").write_bytes(stale)
    else:
        (root / "catalog.json").write_text('{"format": 2}')
    assert full.listing() == before
    collect(open_writer(root))
    assert read_catalog(LocalStorage(root)) == before


def write_and_die(root: str, at: str) -> None:
    """Write an entry; be killed just before a temporary file becomes the file of a name that ends so."""

    class DiesBeforeRename(Disk):
        def rename(self, source: Path, target: Path) -> None:
            if target.name.endswith(at):
                kill_itself()
            super().rename(source, target)

        def link(self, source: Path, target: Path) -> None:
            if target.name.endswith(at):
                kill_itself()
            super().link(source, target)

    write_tiny(StoreWriter(root, disk=DiesBeforeRename()), tiny_spec(), labels={"family": "pythia"})


@pytest.mark.parametrize("at", [".journal", "manifest.json", "model.json", "labels.json", ".parquet", "catalog.json"])
def test_temporary_files_of_a_killed_writer_are_collected_wherever_it_died(
    store: StoreWriter, processes: ForkServerContext, at: str
):
    process = processes.Process(target=write_and_die, args=(str(store.root), at))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    [temporary] = store.root.rglob(".*.tmp")
    assert collect(store) == []
    collect(store, older_than=0)
    assert temporary.exists() == (at != "manifest.json")  # others may be a living writer's; this one was under a lock
    make_older(store.root, 1)
    assert collect(store) == []
    collect(store, older_than=0)
    assert list(store.root.rglob(".*.tmp")) == staging(store.root) == []
    write_tiny(store, tiny_spec(), labels={"family": "pythia"})
    assert problems_of(store.reader) == ""


def commit_and_die(root: str) -> None:
    """Write an entry; be killed just after the rename that makes it visible."""

    class DiesAfterRename(Disk):
        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            if target.parent.name == "rte":
                kill_itself()

    write_tiny(StoreWriter(root, disk=DiesAfterRename()), tiny_spec())


def test_a_commit_that_was_killed_after_its_rename_is_finished(store: StoreWriter, processes: ForkServerContext):
    withdraw(store, write_tiny(store, tiny_spec()).path)
    process = processes.Process(target=commit_and_die, args=(str(store.root),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    entry = store.reader.entry(**RTE)
    assert store.reader.listing().withdrawn == ()
    assert read_catalog(LocalStorage(store.root)).records == ()
    assert [found.remedy.split()[0] for found in examine(store.reader) if "can be written to" in found.what] == [
        "chmod"
    ]
    collect(store)
    assert [path for path in (folder(entry), *folder(entry).rglob("*")) if path.stat().st_mode & 0o222] == []
    assert read_catalog(LocalStorage(store.root)) == store.reader.listing()
    assert [record.id for record in store.reader.records()] == [entry.id]


# Labels


def test_labels_are_merged_and_none_takes_one_away(full: Store):
    writer = open_writer(full.location)
    assert writer.label("pythia", {"seed": 1, "trained_on": ["rte"]}) == {
        "family": "pythia", "seed": 1, "trained_on": ["rte"],
    }  # fmt: skip
    assert writer.label("pythia", {"seed": 2, "family": None}) == {"seed": 2, "trained_on": ["rte"]}
    assert full.labels("pythia") == {"seed": 2, "trained_on": ["rte"]}
    assert full.labels("pythia-dpo") == {"family": "pythia"}
    assert full.task_labels("rte") == {}
    assert writer.label_task("rte", {"restricted": True, "licence": "LDC"}) == {"restricted": True, "licence": "LDC"}
    assert full.task_labels("rte") == {"restricted": True, "licence": "LDC"}
    assert writer.label_task("rte", {"restricted": None, "licence": None, "never": None}) == {}
    assert full.task_labels("rte") == full.task_labels("boolq") == {}
    assert problems_of(full) == ""


def test_labels_stand_outside_every_identity(full: Store):
    before = [(record.id, record.key) for record in full.records()]
    catalog = (Path(full.location) / "catalog.json").read_bytes()
    open_writer(full.location).label("pythia", {"trained_on": ["boolq"]})
    open_writer(full.location).label_task("rte", {"restricted": True})
    assert [(record.id, record.key) for record in full.records()] == before
    assert (Path(full.location) / "catalog.json").read_bytes() == catalog


def test_labels_that_change_nothing_are_not_written(full: Store):
    writer = open_writer(full.location)
    writer.label_task("rte", {"licence": "LDC"})
    before = {path: path.stat().st_ino for path in writer.root.rglob("labels.json")}
    writer.label("pythia", {"family": "pythia", "seed": None})
    writer.label_task("rte", {"licence": "LDC"})
    writer.label_task("boolq", {"licence": None})
    assert {path: path.stat().st_ino for path in writer.root.rglob("labels.json")} == before


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé中", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
LABELS = st.dictionaries(st.text("abé", min_size=1, max_size=2), VALUES, max_size=4)


def as_text(labels: dict[str, Any]) -> str:
    """Text that tells 1 from 1.0 and from true."""
    return json.dumps(labels, sort_keys=True)


@settings(deadline=None, max_examples=30)
@given(first=LABELS, second=LABELS)
def test_any_labels_come_back_merged(
    first: dict[str, Any], second: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
):
    root = tmp_path_factory.mktemp("labels")
    write_labels(Disk(), root, "models/pythia", first)
    returned = write_labels(Disk(), root, "models/pythia", second)
    expected = as_text({name: value for name, value in (first | second).items() if value is not None})
    assert as_text(returned) == expected
    assert as_text(read_labels(LocalStorage(root), "models/pythia")) == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"checksum": "ab"}, "a label cannot be called 'checksum'; choose another name"),
        ({"lr": float("nan")}, "cannot be kept as JSON"),
        ({"lr": float("inf")}, "cannot be kept as JSON"),
        ({"tasks": {"rte"}}, "cannot be kept as JSON"),
        ({"note": "\ud800"}, "cannot be kept as JSON"),
    ],
)
def test_labels_that_cannot_be_kept_are_refused_and_change_nothing(full: Store, labels: dict[str, Any], message: str):
    writer, before = open_writer(full.location), tree_digest(Path(full.location))
    for label in (lambda: writer.label("pythia", labels), lambda: writer.label_task("rte", labels)):
        with pytest.raises(InvalidInput, match=message):
            label()
    assert tree_digest(writer.root) == before


def test_only_what_has_entries_is_labelled(full: Store):
    writer, before = open_writer(full.location), tree_digest(Path(full.location))
    with pytest.raises(NotFound, match="no model 'pithia'; did you mean 'pythia'"):
        writer.label("pithia", {"seed": 1})
    with pytest.raises(NotFound, match="no task 'rtf'; did you mean 'rte'"):
        writer.label_task("rtf", {"restricted": True})
    with pytest.raises(InvalidInput, match=r"task name '\.\./rte' is not a slug"):
        writer.label_task("../rte", {"restricted": True})
    assert tree_digest(writer.root) == before


def test_labels_are_sealed(full: Store):
    writer = open_writer(full.location)
    writer.label_task("rte", {"restricted": True})
    for name, read, write in (
        ("models/pythia", lambda: full.labels("pythia"), lambda: writer.label("pythia", {"seed": 1})),
        ("tasks/rte", lambda: full.task_labels("rte"), lambda: writer.label_task("rte", {"seed": 1})),
    ):
        path = writer.root / name / "labels.json"
        path.write_text(path.read_text().replace("true", "false").replace('"pythia"', '"llama"'))
        for act in (read, write):
            with pytest.raises(Corrupt, match=rf"{path}: its checksum does not fit its content"):
                act()
        assert f"{path}: its checksum does not fit" in problems_of(full)


# The limit


def test_a_commit_beyond_the_limit_is_refused_and_loses_nothing(store: StoreWriter):
    whole = write_tiny(create_store(store.root.with_name("whole.act")), long_spec())
    write_limit(store.disk, store.root, whole.manifest.n_bytes - 1)
    message = (
        rf"entries hold 0 bytes, {whole.manifest.n_bytes:,} more would exceed its limit of .*`act rm`.*`act limit`"
    )
    with pytest.raises(InvalidInput, match=message):
        write_tiny(store, long_spec())
    assert store.reader.entries() == []
    assert problems_of(store.reader) == ""
    write_limit(store.disk, store.root, whole.manifest.n_bytes)
    with store.new_entry(long_spec()) as writer:
        assert writer.n_written == 5000
        assert store.commit(writer, {}).id == whole.id
    assert staging(store.root) == []
    with pytest.raises(InvalidInput, match=f"hold {whole.manifest.n_bytes:,} bytes"):
        write_tiny(store, tiny_spec())


def test_room_that_a_withdrawn_entry_leaves_may_be_used(store: StoreWriter):
    first = write_tiny(store, tiny_spec())
    write_limit(store.disk, store.root, first.manifest.n_bytes + 1000)
    with pytest.raises(InvalidInput, match="would exceed its limit"):
        write_tiny(store, tiny_spec(dtype="float16"))
    withdraw(store, first.path)
    assert write_tiny(store, tiny_spec(dtype="float16")).n_examples == 5


def test_what_is_there_already_needs_no_room(store: StoreWriter):
    first = write_tiny(store, tiny_spec())
    write_limit(store.disk, store.root, 1)
    assert write_tiny(store, tiny_spec()).id == first.id


def test_a_limit_is_set_changed_and_taken_away(store: StoreWriter):
    storage = LocalStorage(store.root)
    assert read_limit(storage) is None
    for limit in (1, 2 << 40):
        write_limit(store.disk, store.root, limit)
        assert read_limit(storage) == limit
    write_limit(store.disk, store.root, None)
    write_limit(store.disk, store.root, None)
    assert read_limit(storage) is None


@pytest.mark.parametrize("content", [{"max_bytes": "1TiB"}, {}, {"max_bytes": 1.5}])
def test_a_limit_that_was_changed_is_corrupt_and_stops_writers(store: StoreWriter, content: dict[str, Any]):
    for text, message in (
        (json.dumps({"max_bytes": 5, "checksum": "0" * 32}), "its checksum does not fit its content"),
        (json.dumps(seal(content)), "expected a number of bytes, got .*; set it again with `act limit`"),
    ):
        (store.root / "limit.json").write_text(text)
        with pytest.raises(Corrupt, match=rf"limit.json: {message}"):
            read_limit(LocalStorage(store.root))
        with pytest.raises(Corrupt, match=rf"limit.json: {message}"):
            write_tiny(store, tiny_spec())
        assert "limit.json" in problems_of(store.reader)
    write_limit(store.disk, store.root, 1 << 30)
    assert write_tiny(store, tiny_spec()).n_examples == 5


# Usage


def test_usage_is_counted_by_model_and_by_task_the_largest_first(full: Store):
    sizes = {(record.model, record.task): record.n_bytes for record in full.records()}
    for by, place in (("model", 0), ("task", 1)):
        expected: dict[str, list[int]] = {}
        for names, size in sizes.items():
            expected.setdefault(names[place], []).append(size)
        found = usage(full, by)
        assert {one.name: (one.n_entries, one.n_bytes) for one in found} == {
            name: (len(of_name), sum(of_name)) for name, of_name in expected.items()
        }
        assert [one.n_bytes for one in found] == sorted((one.n_bytes for one in found), reverse=True)
    assert [one.name for one in usage(full, "task")] == ["rte", "boolq"]


def test_an_owner_is_a_label_of_the_model_or_else_of_the_files(full: Store):
    mine = getpass.getuser()
    total = sum(record.n_bytes for record in full.records())
    assert usage(full, "owner") == [Usage(name=mine, n_entries=4, n_bytes=total)]
    open_writer(full.location).label("pythia", {"owner": "ada"})
    assert {one.name: one.n_entries for one in usage(full, "owner")} == {"ada": 2, mine: 2}
    open_writer(full.location).label("pythia-dpo", {"owner": 17})
    assert {one.name: one.n_entries for one in usage(full, "owner")} == {"ada": 2, "17": 2}
    open_writer(full.location).label("pythia-dpo", {"owner": "ada"})
    assert usage(full, "owner") == [Usage(name="ada", n_entries=4, n_bytes=total)]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_an_owner_without_a_name_is_a_number(full: Store):
    os.chown(folder(full.entry(**RTE)), 123_456, -1)
    assert {one.name: one.n_entries for one in usage(full, "owner")} == {"user 123456": 1, getpass.getuser(): 3}


def test_an_empty_store_uses_nothing(store: StoreWriter):
    assert [usage(store.reader, by) for by in ("model", "task", "owner")] == [[], [], []]


# The doctor


def find(store: Store, *words: str) -> Finding:
    """Return the one finding whose place or text holds all of these words."""
    [found] = [one for one in examine(store) if all(word in f"{one.where}: {one.what}" for word in words)]
    return found


def is_gone(store: Store, found: Finding) -> bool:
    return all((one.where, one.what) != (found.where, found.what) for one in examine(store))


def carry_out(remedy: str) -> None:
    """Type what a remedy begins with."""
    command = re.split(r"[,;]", remedy)[0].replace("SIZE", "1TiB")
    if command.startswith("act "):
        assert run(shlex.split(command)[1:]) == 0
    else:
        subprocess.run(["bash", "-euc", command], check=True)


@pytest.fixture
def spaced(pristine: Path, tmp_path: Path) -> Store:
    """A copy of two models on two tasks in a directory whose name needs quoting, all as it should be."""
    root = tmp_path / "the lab's.act"
    shutil.copytree(pristine, root)  # copies modes too
    return open_store(root)


def test_of_a_sound_store_nothing_is_found(spaced: Store, store: StoreWriter):
    assert examine(spaced) == examine(store.reader) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no manifest", "no manifest: this is no entry, and in the way of one"),
        ("a manifest of another content", "manifest.json: its checksum does not fit its content"),
        ("a missing file", "mean/c.0.0: missing (No such file or directory)"),
    ],
)
def test_a_damaged_entry_is_an_error_until_it_is_withdrawn(spaced: Store, damage: str, words: str):
    entry = spaced.entry(**RTE)
    unlock(folder(entry))
    DAMAGES[damage](folder(entry))
    found = find(spaced, words)
    assert (found.severity, found.where) == ("error", entry.location)
    carry_out(found.remedy)
    assert is_gone(spaced, found)
    write_tiny(open_writer(spaced.location), tiny_spec())
    assert [one.severity for one in examine(spaced)] == ["note"]  # the trash


def test_a_file_of_another_size_is_an_error(spaced: Store):
    entry = spaced.entry(**RTE)
    unlock(folder(entry))
    path = folder(entry) / "hidden_states" / "c.0.0.0"
    path.write_bytes(path.read_bytes()[:-1])
    found = find(spaced, f"{path}: expected ", " bytes, got ")
    assert (found.severity, found.where) == ("error", entry.location)
    carry_out(found.remedy)
    assert is_gone(spaced, found)


def test_entries_that_can_be_written_to_are_a_note(spaced: Store):
    for record in spaced.records(model="pythia"):
        unlock(Path(spaced.location) / record.path)
    found = find(spaced, "2 entries can be written to")
    assert found.severity == "note"
    carry_out(found.remedy)
    assert examine(spaced) == []


@pytest.mark.parametrize("name", ["models/pythia/model.json", "models/pythia/labels.json", "tasks/rte/labels.json"])
def test_a_changed_file_of_a_model_or_task_is_an_error(spaced: Store, name: str):
    root = Path(spaced.location)
    open_writer(root).label_task("rte", {"licence": "LDC"})
    before = (root / name).read_bytes()
    (root / name).chmod(0o644)
    (root / name).write_text("{}")
    found = find(spaced, f"{root / name}: its checksum does not fit its content")
    assert found.severity == "error"
    assert "restore the file from a copy" in found.remedy
    (root / name).write_bytes(before)
    assert examine(spaced) == []


def test_a_missing_model_file_is_an_error(spaced: Store):
    path = Path(spaced.location) / "models" / "pythia" / "model.json"
    before = path.read_bytes()
    path.unlink()
    found = find(spaced, f"{path}: cannot be read (No such file or directory)")
    assert found.severity == "error"
    path.write_bytes(before)
    assert examine(spaced) == []


def test_a_missing_table_of_a_task_is_an_error_until_any_model_is_ingested_on_it(spaced: Store):
    [path] = (Path(spaced.location) / "tasks" / "rte").glob("*.parquet")
    path.unlink()
    found = find(spaced, str(path), "the examples of task 'rte' are missing")
    assert found.severity == "error"
    assert found.remedy == "restore the file from a copy, or ingest any model on the task again"
    write_tiny(open_writer(spaced.location), tiny_spec(dtype="float16"))
    assert examine(spaced) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "missing"), ("{}", "expected format 1"), ("stale", "differs from what the store holds")],
)
def test_a_catalogue_that_is_not_right_is_a_warning(spaced: Store, text: str | None, words: str):
    path = Path(spaced.location) / "catalog.json"
    if text == "stale":
        before = path.read_bytes()
        write_tiny(open_writer(spaced.location), tiny_spec(dtype="float16"))
        path.write_bytes(before)
    else:
        path.unlink()
        if text is not None:
            path.write_text(text)
    found = find(spaced, str(path), words)
    assert found.severity == "warning"
    carry_out(found.remedy)
    assert examine(spaced) == []


def test_an_empty_store_needs_no_catalogue(store: StoreWriter):
    assert not (store.root / "catalog.json").exists()
    assert examine(store.reader) == []


def test_a_damaged_tombstone_is_a_warning(spaced: Store):
    writer, path = open_writer(spaced.location), spaced.entry(**RTE).path
    withdraw(writer, path)
    tombstone = writer.root / f"{path}.withdrawn.json"
    for text, words in (("{}", "its checksum does not fit"), (json.dumps(seal({"path": path})), "not a tombstone")):
        tombstone.write_text(text)
        found = find(spaced, str(tombstone), words)
        assert found.severity == "warning"
        assert str(tombstone) in problems_of(spaced)
        carry_out(found.remedy)
        assert is_gone(spaced, found)


def test_what_a_writer_left_is_a_note_and_later_a_warning(store: StoreWriter, processes: ForkServerContext):
    answers = processes.Queue()
    process = processes.Process(target=child_stops_halfway, args=(str(store.root), answers))
    process.start()
    assert answers.get(timeout=60) == "begin"
    assert examine(store.reader) == []  # it lives
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    young = find(store.reader, "an entry under construction")
    assert (young.severity, "or run the interrupted command again" in young.remedy) == ("note", True)
    for path in (store.root / ".staging").iterdir():
        make_older(path, 8)
    old = find(store.reader, "an entry under construction", "untouched for 8.0 days")
    assert old.severity == "warning"
    carry_out(old.remedy)
    assert examine(store.reader) == []


def test_what_lies_in_the_trash_and_temporary_files_are_notes(spaced: Store):
    writer = open_writer(spaced.location)
    withdraw(writer, spaced.entry(**RTE).path)
    temporary = writer.root / "tasks" / ".labels.json.0123456789abcdef.tmp"
    temporary.write_text("{")
    assert len(examine(spaced)) == 1  # it may be a living writer's
    make_older(temporary, 0.1)
    found = [find(spaced, "a withdrawn entry"), find(spaced, "a temporary file, 1 bytes")]
    assert [one.severity for one in found] == ["note", "note"]
    carry_out(found[0].remedy)
    assert examine(spaced) == []


def test_a_disk_that_is_nearly_full_is_a_warning(spaced: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actlas.store.doctor._NEARLY_FULL", 0.0)
    found = find(spaced, "its disk is ", "% full")
    assert found.severity == "warning"
    assert "`act copy` to another disk" in found.remedy


def test_a_limit_that_is_nearly_reached_or_damaged_is_found(spaced: Store):
    writer = open_writer(spaced.location)
    used = sum(record.n_bytes for record in spaced.records())
    write_limit(writer.disk, writer.root, int(used / 0.9))
    assert examine(spaced) == []
    for limit in (int(used / 0.96), used // 2):
        write_limit(writer.disk, writer.root, limit)
        found = find(spaced, f"{used:,} bytes of a limit of {limit:,}")
        assert found.severity == "warning"
        carry_out(found.remedy)
        assert examine(spaced) == []
    (writer.root / "limit.json").write_text("{}")
    found = find(spaced, "limit.json: its checksum does not fit")
    assert found.severity == "error"
    carry_out(found.remedy)
    assert examine(spaced) == []


def findings(root: str) -> list[tuple[str, str]]:
    return [(one.severity, one.what) for one in examine(open_store(root))]


def test_a_store_that_this_user_cannot_write_to_is_a_note(root_of_nobody: Path, as_user: Any):
    write_tiny(open_writer(root_of_nobody), tiny_spec())
    assert as_user(findings, root_of_nobody) == []
    root_of_nobody.chmod(0o555)
    assert as_user(findings, root_of_nobody) == [("note", "you cannot write to it")]
    root_of_nobody.chmod(0o755)


def test_findings_are_told_together_and_none_hides_another(spaced: Store):
    root = Path(spaced.location)
    for task, damage in (("rte", "no manifest"), ("boolq", "a manifest of another content")):
        entry = folder(spaced.entry(model="pythia", task=task))
        unlock(entry)
        DAMAGES[damage](entry)
    (root / "limit.json").write_text("{}")
    (root / "models" / "pythia-dpo" / "labels.json").write_text("{}")
    (root / "catalog.json").unlink()
    assert sorted(one.severity for one in examine(spaced)) == ["error"] * 4 + ["warning"]

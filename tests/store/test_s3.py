"""A store is published to S3, here to Swift: whole, in the right order, and again until it is there."""

import contextlib
import dataclasses
import io
import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from actlas.cli.main import run
from actlas.store import (
    ActError,
    Corrupt,
    Entry,
    Incomplete,
    InvalidInput,
    Mismatch,
    NotFound,
    Store,
    Unreachable,
    copy_entries,
    create_store,
    open_store,
)
from actlas.store.remote import RemoteStorage
from tests.cli.conftest import ACT, Result
from tests.servers import nginx as web
from tests.servers.fault import DROP, FLIP, FLIP_UPLOAD, STALL, Fault, status
from tests.servers.fault_proxy import FaultProxy, fault_proxy
from tests.servers.swift import PAGE, S3
from tests.store.tiny import (
    everything,
    problems_of,
    same_bits,
    tiny_model,
    tiny_spec,
    tiny_task,
    tiny_values,
    write_tiny,
)

WRITING = ("PUT", "POST", "DELETE")


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A bucket of its own, and the proxy through which this process comes to it, as its owner."""

    s3: S3
    bucket: str
    proxy: FaultProxy
    patch: pytest.MonkeyPatch

    def url(self, name: str = "lab.act") -> str:
        return f"s3://{self.bucket}/{name}"

    def come_as(self, *, reader: bool) -> None:
        for name, value in (self.s3.environment(reader=reader) | {"AWS_ENDPOINT_URL": self.proxy.url}).items():
            self.patch.setenv(name, value)

    def puts(self) -> list[str]:
        """Return the names that were written since the last time, in order, and forget all requests."""
        with self.proxy.lock:
            requests = list(self.proxy.requests)
            self.proxy.requests.clear()
        return [one.path.removeprefix(f"/{self.bucket}/") for one in requests if one.method in WRITING]

    def break_puts(self, faults: dict[int, Fault], *, for_ever: bool) -> None:
        """Let a fault meet the PUTs of these numbers, from 1; or, for ever, the first of them and all that come after it."""
        seen, lock = 0, threading.Lock()

        def rule(method: str, path: str, nth: int) -> Fault | None:
            nonlocal seen
            if method != "PUT":
                return None
            with lock:
                seen += 1
                [first, *_] = faults
                return faults[first] if for_ever and seen >= first else faults.get(seen)

        self.proxy.rule = rule

    def mend(self) -> None:
        self.proxy.rule = lambda method, path, nth: None


@pytest.fixture(scope="module")
def gate(s3: S3) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as proxy:
        yield proxy


def new_cloud(s3: S3, gate: FaultProxy, patch: pytest.MonkeyPatch) -> Cloud:
    """Return a new bucket, which the reader may read."""
    cloud = Cloud(s3, f"b{uuid.uuid4().hex[:12]}", gate, patch)
    s3.share_bucket(cloud.bucket)
    cloud.come_as(reader=False)
    cloud.puts()
    return cloud


@pytest.fixture
def cloud(s3: S3, gate: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A bucket for one test."""
    found = new_cloud(s3, gate, monkeypatch)
    yield found
    found.mend()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two models on one task."""
    writer = create_store(tmp_path_factory.mktemp("lab") / "lab.act")
    for seed, (name, base) in enumerate((("pythia", "ba"), ("tuned", "bb"))):
        spec = tiny_spec(model=tiny_model(name, base=base))
        write_tiny(writer, spec, tiny_values(spec, seed), labels={"family": "pythia"})
    writer.label_task("rte", {"licence": "MIT"})
    return writer.reader


@dataclasses.dataclass(frozen=True)
class Published:
    """What `act copy` printed, what it put in which order, and where."""

    out: str
    puts: list[str]
    bucket: str


@pytest.fixture(scope="module")
def published(s3: S3, gate: FaultProxy, lab: Store) -> Published:
    """The lab in a bucket, for tests that only read it."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        cloud = new_cloud(s3, gate, patch)
        assert run(["copy", lab.location, cloud.url()]) == 0
        return Published(out.getvalue(), [path.removeprefix("lab.act/") for path in cloud.puts()], cloud.bucket)


@pytest.fixture
def shared(published: Published, s3: S3, gate: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The bucket with the lab; not to be changed."""
    cloud = Cloud(s3, published.bucket, gate, monkeypatch)
    cloud.come_as(reader=False)
    cloud.puts()
    return cloud


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One entry, with labels of its model and its task."""
    writer = create_store(tmp_path_factory.mktemp("single") / "lab.act")
    write_tiny(writer, tiny_spec(), labels={"family": "pythia"})
    writer.label_task("rte", {"licence": "MIT"})
    return writer.reader


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One entry whose shard is put in three parts."""
    writer = create_store(tmp_path_factory.mktemp("large") / "lab.act")
    spec = tiny_spec(model=tiny_model(width=1280, norm_width=None), task=tiny_task(1500), layers=(0, 1, 2))
    write_tiny(writer, dataclasses.replace(spec, codec="none"))
    return writer.reader


def act(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Result(code, out, err)


def publish(source: Store, url: str, *, attempts: int = 1, timeout: float = 10, **options: object) -> list[str]:
    destination = RemoteStorage(url, attempts=attempts, timeout=timeout)
    return [one.outcome for one in copy_entries(source, destination, **options)]  # type: ignore[arg-type]


def assert_same(there: Store, source: Store) -> None:
    """Assert that everything is there, exact, and as the catalogue says."""
    assert there.records() == source.records()
    for record in source.records():
        assert everything(there.open_entry(record)) == everything(source.open_entry(record))
        assert there.model(record.model) == source.model(record.model)
        assert there.labels(record.model) == source.labels(record.model)
        assert there.task_labels(record.task) == source.task_labels(record.task)


def assert_whole(there: Store, source: Store) -> None:
    """Assert that everything is there and every byte as it was written, which `verify` reads."""
    assert there.records() == source.records()
    assert problems_of(there) == ""


def visible(url: str) -> list[Entry]:
    """Return what a reader can get at, if anything."""
    try:
        return open_store(url).entries()
    except (NotFound, Incomplete) as error:
        assert "is not an actlas store" in str(error) or f"{url}/catalog.json: not there" in str(error)  # noqa: PT017
        return []


# What arrives


def test_a_published_store_reads_back_exactly(
    shared: Cloud, published: Published, lab: Store, capsys: pytest.CaptureFixture[str]
):
    assert re.fullmatch(r"2 entries copied, [\d.]+ KiB; 0 were there already\n", published.out)
    shared.come_as(reader=True)
    there = open_store(shared.url())
    assert_same(there, lab)
    assert_whole(there, lab)
    for arguments in (["ls"], ["info", "pythia/rte"], ["verify", "--sample"], ["doctor"], ["du"]):
        remote = act(capsys, arguments[0], shared.url(), *arguments[1:])
        assert (remote.code, remote.err) == (0, "")
        assert remote.out == act(capsys, arguments[0], lab.location, *arguments[1:]).out


@pytest.mark.parametrize("name", ["", "deep/er/läb +1.act"])
def test_a_store_may_stand_anywhere_in_a_bucket(cloud: Cloud, single: Store, name: str):
    url = cloud.url(name).rstrip("/")
    assert publish(single, f"{url}/") == ["copied"]
    assert_whole(open_store(url), single)
    assert open_store(url).location == url


def test_objects_that_are_put_in_parts_read_back_exactly(cloud: Cloud, large: Store):
    assert publish(large, cloud.url()) == ["copied"]
    parts = [path for path in cloud.puts() if path.endswith("hidden_states/c.0.0.0")]
    assert len(parts) > 3  # it is begun, put in parts, and completed
    cloud.come_as(reader=True)
    assert_same(open_store(cloud.url()), large)
    [there], [here] = open_store(cloud.url()).entries(), large.entries()
    rows = np.array([1499, 3, 700])
    assert same_bits(there.read(2, rows), here.read(2, rows))


def test_a_list_of_several_pages_is_read_to_its_end(shared: Cloud, lab: Store):
    names = RemoteStorage(shared.url()).list("models")
    files = [path for path in Path(lab.location).glob("models/**/*") if path.is_file()]
    assert names == {path.relative_to(lab.location).as_posix(): path.stat().st_size for path in files}
    assert len(names) > 2 * PAGE
    assert sum("continuation-token" in request.query for request in shared.proxy.requests) == len(names) // PAGE


# In what order


def test_data_come_first_then_the_manifest_then_the_catalogue(published: Published, lab: Store):
    puts = published.puts
    assert puts[:2] == ["models/zarr.json", "zarr.json"]
    for entry in lab.entries():
        own = [number for number, path in enumerate(puts) if path.startswith(f"{entry.path}/")]
        manifest = puts.index(f"{entry.path}/manifest.json")
        assert len(own) == len(entry.manifest.files) + 1
        assert manifest == max(own)
        assert puts[manifest + 1] == "catalog.json"
        around = [f"models/{entry.model}/{name}" for name in ("zarr.json", "model.json", "labels.json")]
        for path in (*around, f"models/{entry.model}/{entry.task}/zarr.json"):
            assert puts.index(path) < min(own)
    assert len(puts) == len({*puts}) + 1  # but for the catalogue, which is put after every entry, nothing is put twice


def test_what_is_there_is_not_put_again(shared: Cloud, lab: Store, capsys: pytest.CaptureFixture[str]):
    shared.come_as(reader=True)  # nothing is written, so nothing is refused
    result = act(capsys, "copy", lab.location, shared.url())
    assert (result.code, result.out) == (0, "0 entries copied, 0 B; 2 were there already\n")
    assert shared.puts() == []


def test_what_is_new_is_put_beside_what_is_there(cloud: Cloud, lab: Store, capsys: pytest.CaptureFixture[str]):
    publish(lab, cloud.url(), models=["pythia"])
    cloud.puts()
    result = act(capsys, "copy", lab.location, cloud.url(), "--json")
    assert [one["outcome"] for one in result.json] == ["present", "copied"]
    assert [path for path in cloud.puts() if "/tuned/" not in path] == ["lab.act/catalog.json"]
    assert_whole(open_store(cloud.url()), lab)


def test_labels_come_before_the_prompts_and_follow_later(cloud: Cloud, tmp_path: Path):
    writer = create_store(tmp_path / "lab.act")
    write_tiny(writer, tiny_spec())
    writer.label_task("rte", {"restricted": True, "licence": "LDC"})
    with pytest.raises(InvalidInput, match=r"task 'rte' of .* is restricted \(licence: LDC\)"):
        publish(writer.reader, cloud.url())
    assert cloud.puts() == []
    assert publish(writer.reader, cloud.url(), allow_restricted=True) == ["copied"]
    puts = [path.removeprefix("lab.act/") for path in cloud.puts()]
    [table] = [path for path in puts if path.endswith(".parquet")]
    assert puts.index("tasks/rte/labels.json") < puts.index(table)
    with pytest.raises(InvalidInput, match=f"task 'rte' of {cloud.url()} is restricted"):
        list(copy_entries(open_store(cloud.url()), tmp_path / "mine.act"))
    assert not (tmp_path / "mine.act").exists()
    cloud.proxy.rule = lambda method, path, nth: status(403) if path.endswith("rte/labels.json") else None
    with pytest.raises(Unreachable, match=r"tasks/rte/labels.json: the server does not allow it"):
        list(copy_entries(open_store(cloud.url()), tmp_path / "mine.act"))
    cloud.mend()
    writer.label_task("rte", {"restricted": None, "source": "GLUE"})
    assert publish(writer.reader, cloud.url()) == ["present"]
    assert open_store(cloud.url()).task_labels("rte") == {"restricted": True, "licence": "LDC", "source": "GLUE"}


# Faults


def test_a_copy_that_fails_at_any_point_leaves_nothing_visible_and_goes_on(cloud: Cloud, single: Store):
    publish(single, cloud.url("whole.act"))
    n_puts = len(cloud.puts())
    assert n_puts > 25
    faults = {n_puts // 2: DROP, n_puts - 1: status(403), n_puts: status(500)}
    for number, fault in faults.items():
        url = cloud.url(f"lab{number}.act")
        cloud.break_puts({number: fault}, for_ever=True)
        with pytest.raises(Unreachable, match=re.escape(url)):
            publish(single, url)
        assert visible(url) == []
        cloud.mend()
        cloud.puts()
        assert publish(single, url) == ["present" if number == n_puts else "copied"]
        assert len(cloud.puts()) <= n_puts - number + 16  # as many as were put at the same time
        assert_whole(open_store(url), single)


def test_faults_that_pass_are_not_noticed(cloud: Cloud, single: Store):
    cloud.break_puts({2: status(503), 5: DROP, 12: FLIP_UPLOAD, 18: status(500), 21: STALL}, for_ever=False)
    assert publish(single, cloud.url(), attempts=3, timeout=1.5) == ["copied"]
    assert_whole(open_store(cloud.url()), single)


def test_bytes_that_change_on_the_way_up_or_back_are_noticed(cloud: Cloud, single: Store):
    shard = "hidden_states/c.0.0.0"
    cloud.proxy.rule = lambda method, path, nth: FLIP_UPLOAD if (method == "PUT" and path.endswith(shard)) else None
    with pytest.raises(Unreachable, match=f"{shard}: 1 attempts failed .400 Bad Request: BadDigest"):
        publish(single, cloud.url())
    cloud.proxy.rule = lambda method, path, nth: FLIP if (method == "GET" and path.endswith(shard)) else None
    with pytest.raises(Corrupt, match=f"{shard}: the server gives back other bytes than it was given; copy again"):
        publish(single, cloud.url())
    assert visible(cloud.url()) == []
    cloud.mend()
    assert publish(single, cloud.url()) == ["copied"]
    assert_whole(open_store(cloud.url()), single)


def test_a_part_that_cannot_be_put_leaves_nothing_of_its_file(cloud: Cloud, large: Store):
    def rule(method: str, path: str, nth: int) -> Fault | None:
        return status(403) if (method, path.endswith("hidden_states/c.0.0.0")) == ("PUT", True) and nth > 2 else None

    cloud.proxy.rule = rule
    with pytest.raises(Unreachable, match=r"hidden_states/c.0.0.0: the server does not allow it .403 Forbidden"):
        publish(large, cloud.url())
    cloud.mend()
    assert not any(name.endswith("hidden_states/c.0.0.0") for name in RemoteStorage(cloud.url()).list("models"))
    assert publish(large, cloud.url()) == ["copied"]
    assert_whole(open_store(cloud.url()), large)


@pytest.mark.parametrize("last", ["hidden_states/c.0.0.0", "catalog.json"])
def test_a_killed_copy_leaves_nothing_visible_and_goes_on(cloud: Cloud, single: Store, last: str):
    command = [*ACT, "copy", single.location, cloud.url()]
    killed = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:

        def rule(method: str, path: str, nth: int) -> Fault | None:
            if method == "PUT" and path.endswith(last):
                process.kill()
                killed.set()
            return DROP if killed.is_set() else None

        cloud.proxy.rule = rule
        assert process.wait(timeout=60) == -9
    cloud.mend()
    assert visible(cloud.url()) == []
    publish(single, cloud.url())
    assert_whole(open_store(cloud.url()), single)


def test_a_copy_from_a_bucket_goes_on_where_it_failed(shared: Cloud, lab: Store, tmp_path: Path):
    source = Store(RemoteStorage(shared.url(), attempts=1, timeout=10))
    first, second = lab.entries()
    broken = f"{second.path}/mean/c.0.0"
    shared.proxy.rule = lambda method, path, nth: status(503) if path.endswith(broken) else None
    with pytest.raises(Unreachable, match=f"{broken}: 1 attempts failed .503"):
        list(copy_entries(source, tmp_path / "mine.act"))
    shared.mend()
    assert [entry.path for entry in open_store(tmp_path / "mine.act").entries()] == [first.path]
    shared.puts()
    assert [one.outcome for one in copy_entries(source, tmp_path / "mine.act")] == ["present", "copied"]
    fetched = [one.path for one in shared.proxy.requests if f"/{second.path}/" in one.path]
    assert any(path.endswith(broken) for path in fetched)
    assert len(fetched) < len(second.manifest.files)
    assert_whole(open_store(tmp_path / "mine.act"), lab)
    assert_same(open_store(tmp_path / "mine.act"), lab)


# A part of it, and what does not fit


def test_some_layers_become_an_entry_of_their_own(cloud: Cloud, single: Store, tmp_path: Path):
    [copied] = copy_entries(single, tmp_path / "part.act", layers="0,2")
    assert publish(single, cloud.url(), layers="0,2") == ["copied"]
    [there], [here] = open_store(cloud.url()).entries(), single.entries()
    assert (there.id, there.layers) == (copied.id, (0, 2))
    assert same_bits(there.hidden_states[...], here.hidden_states[[0, 2]])
    assert problems_of(open_store(cloud.url())) == ""
    cloud.puts()
    assert publish(single, cloud.url(), layers="0,2") == ["present"]
    assert cloud.puts() == []


def test_other_values_under_a_key_and_another_model_under_a_name_are_refused(
    cloud: Cloud, single: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    publish(single, cloud.url())
    cloud.puts()
    other = create_store(tmp_path / "other.act")
    write_tiny(other, spec := tiny_spec(), tiny_values(spec, seed=9))
    result = act(capsys, "copy", other.root, cloud.url())
    assert (result.code, result.out, result.err.count("Error: ")) == (1, "", 1)
    assert f"{cloud.url()}/{single.entries()[0].path}: holds other values under this key" in result.err
    namesake = create_store(tmp_path / "namesake.act")
    write_tiny(namesake, tiny_spec(model=tiny_model(base="cc")))
    with pytest.raises(Mismatch, match=f"the name 'pythia' belongs to another checkpoint in {cloud.url()}"):
        publish(namesake.reader, cloud.url())
    with pytest.raises(InvalidInput, match=f"{cloud.url()}: its batches have 16384 tokens, those of .* 512"):
        publish(small_batches(tmp_path / "small.act"), cloud.url())
    assert cloud.puts() == []
    assert_whole(open_store(cloud.url()), single)


def small_batches(root: Path) -> Store:
    writer = create_store(root, batch_tokens=512)
    write_tiny(writer, tiny_spec())
    return writer.reader


def test_a_damaged_source_is_not_published(cloud: Cloud, single: Store, tmp_path: Path):
    shutil.copytree(single.location, tmp_path / "lab.act")
    source = open_store(tmp_path / "lab.act")
    small = Path(source.entries()[0].location) / "max_abs" / "c.0.0"
    small.chmod(0o644)
    small.write_bytes(small.read_bytes()[::-1])
    with pytest.raises(Corrupt, match=f"{small}: its bytes are not those that were written"):
        publish(source, cloud.url())
    assert visible(cloud.url()) == []


def test_a_sound_table_takes_the_place_of_a_damaged_one(cloud: Cloud, single: Store):
    publish(single, cloud.url())
    storage = RemoteStorage(cloud.url())
    [table] = [name for name in storage.list("tasks") if name.endswith(".parquet")]
    storage.put(table, b"PAR1")
    assert "not a readable Parquet file" in problems_of(open_store(cloud.url()))
    assert publish(single, cloud.url()) == ["present"]
    assert_same(open_store(cloud.url()), single)


def test_another_zarr_group_is_not_overwritten(cloud: Cloud, single: Store):
    group = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'
    RemoteStorage(cloud.url()).put("zarr.json", group)
    cloud.puts()
    with pytest.raises(NotFound, match=f"{cloud.url()} is a Zarr group but not an actlas store"):
        publish(single, cloud.url())
    assert cloud.puts() == []


# The catalogue


def test_two_who_publish_at_the_same_time_are_both_listed(cloud: Cloud, lab: Store):
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(publish, lab, cloud.url(), attempts=3, models=[model]) for model in lab.models()]
    assert [future.result() for future in both] == [["copied"]] * 2
    assert_whole(open_store(cloud.url()), lab)


def test_a_server_that_lists_late_loses_nothing(cloud: Cloud, lab: Store, monkeypatch: pytest.MonkeyPatch):
    """Swift with many nodes may list an object minutes after it was put; with one node it does not."""
    publish(lab, cloud.url(), models=["pythia"])
    monkeypatch.setattr(RemoteStorage, "list", lambda self, prefix: {})
    publish(lab, cloud.url(), models=["tuned"])
    assert_whole(open_store(cloud.url()), lab)


def test_a_catalogue_that_was_lost_or_damaged_is_made_again(cloud: Cloud, single: Store):
    publish(single, cloud.url())
    storage = RemoteStorage(cloud.url())
    for damage in (None, b'{"format": 1}'):
        if damage is None:
            cloud.s3.owner_shell(DELETE.format(path=f"{cloud.bucket}/lab.act/catalog.json"))
        else:
            storage.put("catalog.json", damage)
        with pytest.raises(ActError, match=f"{cloud.url()}/catalog.json: "):
            open_store(cloud.url()).records()
        assert publish(single, cloud.url()) == ["present"]
        assert open_store(cloud.url()).records() == single.records()


DELETE = """
token=$(curl -sSf -o /dev/null -w '%header{{x-auth-token}}' \
    -H "X-Auth-User: $AWS_ACCESS_KEY_ID" -H "X-Auth-Key: $AWS_SECRET_ACCESS_KEY" "$AWS_ENDPOINT_URL/auth/v1.0")
curl -sSf -X DELETE -H "X-Auth-Token: $token" "$AWS_ENDPOINT_URL/v1/AUTH_lab/{path}"
"""


# Who may


def test_a_reader_reads_and_is_refused_when_it_publishes(
    cloud: Cloud, single: Store, lab: Store, capsys: pytest.CaptureFixture[str]
):
    publish(single, cloud.url())
    cloud.come_as(reader=True)
    for name in ("lab.act", "new.act"):
        result = act(capsys, "copy", lab.location, cloud.url(name), "--model", "tuned")
        assert (result.code, result.out) == (1, "")
        assert re.fullmatch(
            rf"Error: {cloud.url(name)}/\S+: the server does not allow it \(403 Forbidden: AccessDenied: Access Denied.\); "
            r"check your credentials and what they may do\n",
            result.err,
        )
    assert_whole(open_store(cloud.url()), single)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "does not allow it .403 Forbidden: SignatureDoesNotMatch: "),
        (
            {"AWS_REGION": "eu-west-7"},
            "1 attempts failed .400 Bad Request: AuthorizationHeaderMalformed: .*'us-east-1'",
        ),
        ({"AWS_ALLOW_HTTP": ""}, "where AWS_ENDPOINT_URL begins with http://, set AWS_ALLOW_HTTP=true"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "1 attempts failed .Connection refused"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_METADATA_ENDPOINT": "http://127.0.0.1:1"},
            "no keys were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or, .* AWS_SKIP_SIGNATURE=true",
        ),
    ],
)
def test_a_setting_that_is_wrong_is_named_on_one_line(shared: Cloud, changes: dict[str, str], message: str):
    for name, value in changes.items():
        shared.patch.setenv(name, value) if value else shared.patch.delenv(name)
    with pytest.raises(Unreachable, match=f"{shared.url()}/zarr.json: .*{message}") as raised:
        Store(RemoteStorage(shared.url(), attempts=1, timeout=5))
    assert "\n" not in str(raised.value)
    assert "<" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_bucket_that_does_not_exist_is_named(shared: Cloud, single: Store):
    for place in (f"s3://{shared.bucket}x/lab.act", f"s3://{shared.bucket}x"):
        there_is_none = f"{place}: there is no such bucket; check its name and AWS_ENDPOINT_URL, or make it"
        with pytest.raises(NotFound, match=there_is_none):
            open_store(place)
        with pytest.raises(NotFound, match=there_is_none):
            publish(single, place)
    with pytest.raises(NotFound, match=f"{shared.url('else.act')} is not an actlas store"):
        open_store(shared.url("else.act"))


@pytest.mark.skipif(web.missing() is not None, reason=str(web.missing()))
def test_a_public_bucket_needs_no_keys_but_must_be_told_so(lab: Store, monkeypatch: pytest.MonkeyPatch):
    """To one who only reads, a bucket that is open to everybody is a web server."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    store = Path(lab.location)
    with web.nginx(store.parent.parent) as url, fault_proxy(url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        place = f"s3://{store.parent.name}/lab.act"
        with pytest.raises(Unreachable, match="AWS_SKIP_SIGNATURE=true"):
            Store(RemoteStorage(place, attempts=1, timeout=5))
        assert proxy.requests == []
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        assert_same(open_store(place), lab)
        assert {request.authorization for request in proxy.requests} == {None}

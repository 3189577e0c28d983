"""A store on a web server reads as its directory does, is asked for no more than is needed, and fails honestly."""

import base64
import dataclasses
import json
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

from actlas.cli.main import run
from actlas.store import (
    CODECS,
    ActError,
    Corrupt,
    Entry,
    Incomplete,
    InvalidInput,
    NotFound,
    ReadOnly,
    Store,
    Unreachable,
    copy_entries,
    create_store,
    open_store,
    open_writer,
    verify,
    withdraw,
)
from actlas.store.layout import entry_directory
from actlas.store.remote import RemoteStorage
from actlas.store.task import task_path
from tests.cli.conftest import ACT, Result
from tests.servers.fault import CUT, DROP, FLIP, SHORT, STALL, STALL_HALFWAY, TRICKLE, Fault, status
from tests.servers.fault_proxy import FaultProxy, Request, fault_proxy
from tests.servers.nginx import missing, nginx, page_configuration
from tests.store.tiny import (
    build_tiny_store,
    everything,
    many_chunks,
    problems_of,
    same_bits,
    tiny_model,
    tiny_spec,
    tiny_task,
    write_tiny,
)

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

LAYERS = (0, 2, 3, 5, 8)
CHUNK, INDEX = 256 * 256 * 2 + 4, 8 * 16 + 4  # bytes of a chunk, and of the index of a shard, of wide.act


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that is served: lab.act, two models on two tasks; codecs.act and wide.act, entries of many shards."""
    directory = tmp_path_factory.mktemp("served")
    build_tiny_store(directory / "lab.act")
    writer = open_writer(directory / "lab.act")
    writer.label_task("rte", {"licence": "MIT"})
    with many_chunks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("actlas.store.encoder.SHARD_BYTES", 160 << 10)  # two layers a shard
        codecs = create_store(directory / "codecs.act")
        for codec in CODECS:
            model, task = tiny_model(width=16), tiny_task(2500, "long")
            spec = tiny_spec(model=model, task=task, layers=LAYERS, rendering=codec)
            write_tiny(codecs, dataclasses.replace(spec, codec=codec))
        patch.setattr("actlas.store.encoder.SHARD_BYTES", 1 << 20)  # one
        wide = tiny_spec(model=tiny_model(width=256), task=tiny_task(2300), layers=(0, 1, 2, 3))
        write_tiny(create_store(directory / "wide.act"), dataclasses.replace(wide, codec="none"))
    return directory


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with nginx(root) as running:
        yield running


@pytest.fixture
def proxy(url: str) -> Iterator[FaultProxy]:
    with fault_proxy(url) as running:
        yield running


def act(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Result(code, out, err)


def impatient(url: str, *, attempts: int = 3, timeout: float = 0.5) -> RemoteStorage:
    return RemoteStorage(url, attempts=attempts, timeout=timeout)


def asked(proxy: FaultProxy) -> list[Request]:
    """Return the requests since the last time."""
    with proxy.lock:
        requests = list(proxy.requests)
        proxy.requests.clear()
    return requests


def span(request: Request) -> tuple[int, int]:
    """Return the first byte, and the one after the last, that a request asks for."""
    first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", request.range or "").groups()
    return int(first), int(last) + 1


def lengths(requests: list[Request]) -> list[int]:
    """Return the bytes of each range that was asked for, sorted."""
    return sorted(stop - start for start, stop in map(span, requests))


# The same values


@pytest.mark.parametrize("codec", CODECS)
def test_every_value_is_the_same_over_http(root: Path, url: str, codec: str):
    [local] = open_store(root / "codecs.act").entries(rendering=codec)
    [remote] = open_store(f"{url}/codecs.act").entries(rendering=codec)
    assert len([name for name in local.manifest.files if name.startswith("hidden_states/c.")]) == 6
    assert (remote.id, remote.key, remote.layers, remote.label) == (local.id, local.key, local.layers, local.label)
    assert remote.identity == local.identity
    assert remote.location == f"{url}/codecs.act/{local.path}"
    assert everything(remote) == everything(local)


def test_every_index_selects_the_same_over_http(root: Path, url: str):
    [local] = open_store(root / "codecs.act").entries(rendering="blosc-zstd")
    [remote] = open_store(f"{url}/codecs.act").entries(rendering="blosc-zstd")
    rows = np.random.default_rng(0).permutation(2500)[:64]
    for index in (0, (-1, -1), (slice(1, 4), slice(250, 2060)), (slice(None, None, -2), rows), ([4, 0], rows, [3, 15])):
        assert same_bits(remote.hidden_states[index], local.hidden_states[index])
        assert same_bits(pickle.loads(pickle.dumps(remote)).hidden_states[index], local.hidden_states[index])
    assert same_bits(remote.read(5, rows), local.read(5, rows))
    assert same_bits(np.asarray(remote.final_norm), np.asarray(local.final_norm))
    dataset = remote.to_xarray()
    assert dataset.coords.identical(local.to_xarray().coords)
    assert same_bits(dataset.hidden_states.sel(layer=[8, 2]).values, local.hidden_states[[4, 1]])
    chunked = remote.to_xarray(chunks={}).hidden_states
    assert chunked.data.chunks == ((1,) * 5, (256,) * 9 + (196,), (16,))
    assert same_bits(chunked.compute().values, local.hidden_states[...])


def test_a_store_says_the_same_over_http(root: Path, url: str):
    local, remote = open_store(root / "lab.act"), open_store(f"{url}/lab.act/")
    assert remote.location == f"{url}/lab.act"
    assert repr(remote) == f"<Store {url}/lab.act>"
    assert repr(remote.storage) == f"<RemoteStorage {url}/lab.act>"
    for what in ("models", "tasks", "records"):
        assert getattr(remote, what)() == getattr(local, what)()
    assert (remote.batch_tokens, remote.labels("pythia")) == (local.batch_tokens, {"family": "pythia"})
    assert (remote.task_labels("rte"), remote.task_labels("boolq")) == ({"licence": "MIT"}, {})
    assert remote.model("pythia-dpo") == local.model("pythia-dpo")
    assert problems_of(remote) == ""


# No more than is needed


def test_listing_asks_for_the_root_and_the_catalogue_alone(proxy: FaultProxy, capsys: pytest.CaptureFixture[str]):
    wanted = [("GET", "/lab.act/zarr.json"), ("GET", "/lab.act/catalog.json")]
    store = open_store(f"{proxy.url}/lab.act")
    assert (len(store.records()), store.models(), store.tasks()) == (4, ["pythia", "pythia-dpo"], ["boolq", "rte"])
    assert [(request.method, request.path) for request in asked(proxy)] == wanted
    for command in ("ls", "du"):
        assert act(capsys, command, f"{proxy.url}/lab.act").code == 0
        assert [(request.method, request.path) for request in asked(proxy)] == wanted


def test_a_layer_asks_for_its_chunks_alone(root: Path, proxy: FaultProxy):
    local = open_store(root / "wide.act").entry(model="pythia", task="rte")
    remote = open_store(f"{proxy.url}/wide.act").entry(model="pythia", task="rte")
    assert [request.path.rpartition("/")[2] for request in asked(proxy)] == [
        "zarr.json",
        "catalog.json",
        "manifest.json",
        "zarr.json",
    ]
    assert same_bits(remote.read(1), local.read(1))
    assert lengths(asked(proxy)) == [INDEX, INDEX, CHUNK, 8 * CHUNK]  # of two shards
    assert same_bits(remote.read(1), local.read(1))
    assert lengths(asked(proxy)) == [CHUNK, 8 * CHUNK]


def test_a_layer_among_others_in_a_shard_asks_for_no_other(root: Path, proxy: FaultProxy):
    [local] = open_store(root / "codecs.act").entries(rendering="none")
    [remote] = open_store(f"{proxy.url}/codecs.act").entries(rendering="none")
    remote.hidden_states[0, [0, -1]]
    asked(proxy)
    remote._storage.request_bytes = 0  # neighbours are read together, also over gaps: one by one, what is needed shows
    assert same_bits(remote.read(2), local.read(2))
    assert lengths(asked(proxy)) == [256 * 16 * 2 + 4] * 10


def test_rows_ask_for_the_chunks_that_hold_them(root: Path, proxy: FaultProxy):
    local = open_store(root / "wide.act").entry(model="pythia", task="rte")
    remote = open_store(f"{proxy.url}/wide.act").entry(model="pythia", task="rte")
    draw = np.random.default_rng(1).permutation
    rows = np.concatenate([256 + draw(512)[:40], 5 * 256 + draw(256)[:24]])  # in the chunks 1, 2 and 5
    remote.hidden_states[0, 0]
    asked(proxy)
    assert same_bits(remote.read(3, rows), local.read(3, rows))
    assert lengths(asked(proxy)) == [INDEX, CHUNK, 2 * CHUNK]
    rows = draw(2048)[:64]
    assert same_bits(remote.read(3, rows), local.read(3, rows))
    assert lengths(asked(proxy)) == [8 * CHUNK]


def test_no_request_asks_for_more_than_it_may(root: Path, proxy: FaultProxy):
    local = open_store(root / "wide.act").entry(model="pythia", task="rte")
    remote = open_store(f"{proxy.url}/wide.act").entry(model="pythia", task="rte")
    remote._storage.request_bytes = 3 * CHUNK
    remote.hidden_states[0, 0]
    asked(proxy)
    assert same_bits(remote.read(0, slice(0, 2048)), local.read(0, slice(0, 2048)))
    spans = sorted(map(span, asked(proxy)))
    assert [stop - start for start, stop in spans] == [3 * CHUNK, 3 * CHUNK, 2 * CHUNK]
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]


# Faults


class Reader:
    """What reads one file of lab.act, and before it what leads there; once opened, store and entry are kept."""

    def __init__(self, storage: RemoteStorage | Path) -> None:
        self._place = storage
        self._store: Store | None = None
        self._entry: Entry | None = None

    @property
    def store(self) -> Store:
        self._store = self._store or Store(self._place)
        return self._store

    @property
    def entry(self) -> Entry:
        self._entry = self._entry or self.store.entry(model="pythia", task="rte")
        return self._entry


@dataclasses.dataclass(frozen=True)
class File:
    """A file of lab.act, which of the requests for it is harmed first, and how what it says is read."""

    name: str
    read: Callable[[Reader], Any]
    begin: int = 1


SPEC = tiny_spec()
ENTRY = entry_directory("pythia", "rte", "raw", "last", SPEC.identity.key)
FILES = {
    "root": File("zarr.json", lambda reader: reader.store.batch_tokens),
    "catalogue": File("catalog.json", lambda reader: reader.store.records()),
    "manifest": File(f"{ENTRY}/manifest.json", lambda reader: reader.entry.manifest),
    "metadata": File(f"{ENTRY}/zarr.json", lambda reader: reader.entry.array_names()),
    "index": File(f"{ENTRY}/hidden_states/c.0.0.0", lambda reader: reader.entry.hidden_states[...].tobytes()),
    "chunk": File(f"{ENTRY}/hidden_states/c.0.0.0", lambda reader: reader.entry.hidden_states[...].tobytes(), begin=2),
    "small": File(f"{ENTRY}/n_tokens/c.0", lambda reader: reader.entry.n_tokens.tolist()),
    "provenance": File(f"{ENTRY}/provenance.json", lambda reader: dict(reader.entry.provenance)),
    "table": File(task_path("rte", SPEC.task.digest), lambda reader: reader.entry.read_task().rows),
    "model": File("models/pythia/model.json", lambda reader: reader.store.model("pythia")),
    "labels": File("models/pythia/labels.json", lambda reader: reader.store.labels("pythia")),
    "task labels": File("tasks/rte/labels.json", lambda reader: reader.store.task_labels("rte")),
}
IN_PARTS = ("index", "chunk", "small")
PASSING = [status(500), status(503), CUT, STALL, STALL_HALFWAY, DROP]


# A file that is too short is asked for its size, which is right then; the wrong bit of the table changes no example; and
# labels that are not there are asked for again.
MAY_PASS = [("index", SHORT), ("table", FLIP), ("labels", status(404)), ("task labels", status(404))]


def expected_error(fault: Fault, what: str) -> type[ActError]:
    if fault in PASSING or fault == status(403):
        return Unreachable
    if fault == status(404):
        return NotFound if what == "root" else Incomplete
    return Incomplete if fault == SHORT and what in IN_PARTS else Corrupt


@contextmanager
def harmed(url: str, what: str, fault: Fault, *, for_ever: bool) -> Iterator[tuple[Reader, str]]:
    """Yield a reader that meets a fault at one file, and what an error must name."""
    file = FILES[what]
    with fault_proxy(url) as proxy:
        path = f"/lab.act/{file.name}"

        def rule(method: str, asked: str, nth: int) -> Fault | None:
            is_hit = asked == path and (nth >= file.begin if for_ever else nth == file.begin)
            return fault if is_hit else None

        proxy.rule = rule
        named = f"{proxy.url}/lab.act" if what == "root" else proxy.url + path
        yield Reader(impatient(f"{proxy.url}/lab.act", attempts=2 if for_ever else 3)), named


def outcome(what: str, reader: Reader) -> Any:
    """Return what a file says, or the error."""
    try:
        return FILES[what].read(reader)
    except ActError as error:
        return error


def meet_once(root: Path, url: str, what: str, fault: Fault) -> None:
    right = FILES[what].read(Reader(root / "lab.act"))
    with harmed(url, what, fault, for_ever=False) as (reader, named):
        found = outcome(what, reader)
        if fault in PASSING or ((what, fault) in MAY_PASS and not isinstance(found, ActError)):
            assert found == right, what
        else:
            assert_named(found, expected_error(fault, what), named)
        assert outcome(what, reader) == right, what  # also with what was opened before the fault


def meet_for_ever(root: Path, url: str, what: str, fault: Fault) -> None:
    right = {} if fault == status(404) else FILES[what].read(Reader(root / "lab.act"))
    with harmed(url, what, fault, for_ever=True) as (reader, named):
        began = time.monotonic()
        found = outcome(what, reader)
        assert time.monotonic() - began < 30
        if (what, fault) in MAY_PASS and not isinstance(found, ActError):
            assert found == right, what
        else:
            assert_named(found, expected_error(fault, what), named)


def assert_named(found: object, kind: type[ActError], named: str) -> None:
    """Assert that this is an error of a kind, which says on one line what it is about."""
    assert type(found) is kind, repr(found)
    assert named in str(found)
    assert "\n" not in str(found)
    assert len(str(found)) < 400


@pytest.mark.parametrize("fault", [*PASSING, status(403), status(404), SHORT, FLIP], ids=str)
def test_a_fault_at_any_file_passes_or_is_named_and_no_value_is_wrong(root: Path, url: str, fault: Fault):
    """Once: what may pass is not noticed, and what is noticed leaves nothing wrong behind. For ever: an error in time."""
    with ThreadPoolExecutor(2 * len(FILES)) as pool:
        met = [pool.submit(meet, root, url, what, fault) for meet in (meet_once, meet_for_ever) for what in FILES]
    for future in met:
        future.result()


def test_the_number_of_attempts_is_bounded_and_their_pauses_grow_and_differ(proxy: FaultProxy):
    faults = {"/a": status(503), "/b": status(500), "/c": DROP, "/d": CUT}
    times: dict[str, list[float]] = {top: [] for top in faults}

    def rule(method: str, path: str, nth: int) -> Fault:
        top = path.removesuffix("/zarr.json")
        times[top].append(time.monotonic())
        return faults[top]

    def fail(top: str) -> None:
        with pytest.raises(Unreachable, match=f"{proxy.url}{top}/zarr.json: 4 attempts failed .*; try again later"):
            Store(impatient(f"{proxy.url}{top}", attempts=4, timeout=5))

    proxy.rule = rule
    with ThreadPoolExecutor(len(faults)) as pool:
        list(pool.map(fail, faults))
    pauses = np.array([np.diff(seen) for seen in times.values()])
    assert pauses.shape == (len(faults), 3)
    assert (pauses > [0.1, 0.2, 0.4]).all()
    assert (pauses < np.array([0.3, 0.6, 1.2]) + 2).all()
    assert len({*pauses[:, 2].round(4)}) == len(faults)


@pytest.mark.parametrize("code", [403, 404, 503])
def test_a_task_never_looks_unrestricted_because_its_labels_cannot_be_read(
    proxy: FaultProxy, tmp_path: Path, code: int
):
    proxy.rule = lambda method, path, nth: status(code) if path.endswith("tasks/rte/labels.json") else None
    copying = copy_entries(Store(impatient(f"{proxy.url}/lab.act", attempts=1)), tmp_path / "mine.act", tasks=["rte"])
    if code == 404:
        assert len(list(copying)) == 2
        return
    with pytest.raises(Unreachable, match=f"tasks/rte/labels.json: .*{code}"):
        list(copying)
    assert not (tmp_path / "mine.act").exists()


def test_an_answer_that_takes_long_is_no_fault_while_bytes_come(root: Path, proxy: FaultProxy):
    proxy.rule = lambda method, path, nth: TRICKLE if path.endswith("manifest.json") else None
    began = time.monotonic()
    entry = Store(impatient(f"{proxy.url}/lab.act", attempts=1, timeout=0.6)).entry(model="pythia", task="rte")
    assert time.monotonic() - began > 0.9
    assert entry.id == open_store(root / "lab.act").entry(model="pythia", task="rte").id


def test_a_server_without_ranges_is_named_at_once(root: Path):
    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=root))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        store = open_store(f"http://127.0.0.1:{server.server_port}/lab.act")
        with pytest.raises(Unreachable, match=r"hidden_states/c\.0\.0\.0: the server gives whole files only; .* nginx"):
            store.entry(model="pythia", task="rte").read(0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "http://127.0.0.1:1/lab.act",
            r"http://127.0.0.1:1/lab.act/zarr.json: 1 attempts failed \(Connection refused\)",
        ),
        ("http://no-such-host.invalid/x", r"x/zarr.json: 1 attempts failed \(.*[Nn]ame"),
        ("http://", "http://: not the URL of a store .it names no server"),
        ("http://127.0.0.1:99999/x", "not the URL of a store .no such host and port"),
        ("http://[::1/x", "not the URL of a store .no such host and port"),
        ("https://example.org/lab.act?token=1", "not the URL of a store .write . as %3F"),
        ("s3://lab:secret@bucket/lab.act", r"s3://bucket/lab.act: not the URL .*keys are taken from AWS_ACCESS_KEY_ID"),
    ],
)
def test_an_address_that_leads_nowhere_is_named(place: str, message: str):
    with pytest.raises(ActError, match=message) as raised:
        Store(RemoteStorage(place, attempts=1, timeout=2))
    assert isinstance(raised.value, InvalidInput if "not the URL" in str(raised.value) else Unreachable)


def test_another_scheme_is_refused():
    with pytest.raises(InvalidInput, match=r"ftp://example.org/x: expected a path, or a URL that begins with http://"):
        open_store("ftp://example.org/x")


# Processes


def test_ctrl_c_ends_a_command_at_once_though_the_server_stands_still(proxy: FaultProxy):
    proxy.rule = lambda method, path, nth: STALL if path.endswith("catalog.json") else None
    command = [*ACT, "ls", f"{proxy.url}/lab.act"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while proxy.count("/lab.act/catalog.json") == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (1, "")
    assert err.strip().startswith("Stopped.")


FORK = """
import os, sys
from actlas.store import Unreachable, open_store
store = open_store(sys.argv[1])
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    store.records()
except Unreachable as error:
    print(error)
sys.stdout.flush()
os._exit(0)
"""


def test_a_forked_process_is_told_that_it_cannot_read_instead_of_waiting_for_ever(url: str):
    command = [sys.executable, "-W", "ignore", "-c", FORK, f"{url}/lab.act"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{url}/lab.act/catalog.json: this process was forked" in done.stdout
    assert "spawn or forkserver" in done.stdout


# Names and passwords

SECRET = "p@ss/w#rd?%é"
GUARDED = page_configuration().replace('# auth_basic "lab";', 'auth_basic "lab";')


@pytest.fixture
def guarded(root: Path, tmp_path: Path) -> Iterator[str]:
    """The address of an nginx that asks for a password, with the password in it."""
    users = tmp_path / "lab.htpasswd"
    users.write_text(f"ada:{{PLAIN}}{SECRET}\n", "utf-8")
    line = f'auth_basic_user_file "{users}";'
    with nginx(root, GUARDED.replace("# auth_basic_user_file /etc/nginx/lab.htpasswd;", line)) as url:
        yield f"http://ada:{quote(SECRET, safe='')}@{urlsplit(url).netloc}/lab.act"


def assert_no_secret(*texts: object) -> None:
    encoded = base64.b64encode(f"ada:{SECRET}".encode()).decode()
    for text in map(str, texts):
        for form in (SECRET, quote(SECRET, safe=""), quote(SECRET), encoded, "ada:"):
            assert form not in text, text


def test_a_password_in_the_address_opens_the_store_and_is_never_shown(
    root: Path, guarded: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plain = f"http://{guarded.partition('@')[2]}"
    store = open_store(guarded)
    [entry, *_] = store.entries(model="pythia", task="rte")
    assert everything(entry) == everything(open_store(root / "lab.act").entry(model="pythia", task="rte"))
    assert store.location == plain
    assert_no_secret(
        repr(store), repr(store.storage), repr(entry), store.location, entry.location, store.storage.where("x")
    )
    for copied in copy_entries(store, tmp_path / "mine.act", layers="0", models=["pythia"], tasks=["rte"]):
        assert_no_secret(copied)
    [mine] = open_store(tmp_path / "mine.act").entries()
    assert mine.provenance["copied_from"]["location"] == f"{plain}/{entry.path}"
    for place, reason in ((plain, "401 Unauthorized"), (guarded.replace("ada:", "ada:x"), "401 Unauthorized")):
        with pytest.raises(Unreachable, match=f"{plain}/zarr.json: the server does not allow it .{reason}") as raised:
            open_store(place)
        assert_no_secret(*traceback.format_exception(raised.value))
    for command in (["ls"], ["ls", "--json"], ["info", "pythia/rte"], ["info", "nobody"], ["verify"], ["doctor"]):
        result = act(capsys, command[0], guarded, *command[1:])
        assert result.code == (1 if "nobody" in command else 0), result
        assert_no_secret(result.out, result.err)


@pytest.mark.parametrize("mark", ["/", "?", "#", "[", "@", ":"])
def test_a_password_that_was_not_quoted_is_not_shown_either(mark: str):
    with pytest.raises(ActError, match=r"127\.0\.0\.1:1") as raised:
        Store(RemoteStorage(f"http://ada:hush{mark}hush@127.0.0.1:1/lab.act", attempts=1))
    assert not re.search("hush|ada", "".join(traceback.format_exception(raised.value)[-1:]))


def test_a_writer_does_not_show_the_password_of_an_address_that_it_refuses():
    with pytest.raises(ReadOnly, match="a store at a URL is read-only") as raised:
        open_writer("http://ada:hush@127.0.0.1:1/lab.act")
    assert "hush" not in str(raised.value)


# Writing


def test_writers_refuse_addresses(url: str):
    for place in (f"{url}/lab.act", "https://example.org/new.act", "s3://bucket/new.act"):
        for make in (open_writer, create_store):
            with pytest.raises(ReadOnly, match=f"{place}: a store at a URL is read-only; .*`act copy`"):
                make(place)
    with pytest.raises(ReadOnly, match=f"{url}/new.act: nothing can be written there"):
        list(copy_entries(open_store(f"{url}/lab.act"), f"{url}/new.act"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["rm", "pythia/rte"],
        ["gc"],
        ["label", "pythia", "seed=1"],
        ["label", "--task", "rte", "restricted=false"],
        ["limit", "1GiB"],
        ["ingest", "--model", "nowhere", "--tasks", "nowhere.jsonl"],
    ],
    ids=" ".join,
)
def test_commands_that_write_refuse_addresses(url: str, capsys: pytest.CaptureFixture[str], arguments: list[str]):
    if arguments[0] == "ingest":
        pytest.importorskip("torch", reason="act ingest needs the extra")
    result = act(capsys, arguments[0], f"{url}/lab.act", *arguments[1:])
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {url}/lab.act: a store at a URL is read-only")
    assert result.err.count("\n") == 1


# Commands that read


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["ls", "--long"],
        ["ls", "--json"],
        ["info", "pythia"],
        ["info", "pythia/rte", "--json"],
        ["du", "--by", "task"],
        ["verify"],
        ["verify", "--json"],
        ["verify", "--sample", "--json"],
        ["verify", "--model", "pythia", "--task", "rte"],
        ["label", "pythia"],
        ["label", "--task", "rte"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_commands_that_read_print_the_same_over_http(
    root: Path, url: str, capsys: pytest.CaptureFixture[str], arguments: list[str]
):
    local, remote = (act(capsys, arguments[0], f"{top}/lab.act", *arguments[1:]) for top in (root, url))
    assert (remote.code, remote.out, remote.err) == (0, local.out, local.err)


def test_models_compare_the_same_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    writer, random = create_store(tmp_path / "lab.act"), np.random.default_rng(0)
    for name, base in (("base", "ba"), ("tuned", "bb")):
        spec = tiny_spec(model=tiny_model(name, base=base, norm_width=None), task=tiny_task(40), dtype="float32")
        write_tiny(writer, spec, (random.normal(size=(3, 40, 8)).astype("<f4"), None))
    with nginx(tmp_path) as url:
        local, remote = (act(capsys, "compare", f"{top}/lab.act", "base", "tuned", "--json") for top in (tmp_path, url))
    assert (local.code, remote.code) == (0, 0), remote.err
    assert json.loads(remote.out) == json.loads(local.out)
    assert len(json.loads(local.out)) >= 3


def test_damage_is_found_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = build_tiny_store(tmp_path / "lab.act")
    entry = store.entry(model="pythia", task="rte")
    shard, small = Path(entry.location) / "hidden_states/c.0.0.0", Path(entry.location) / "max_abs/c.0.0"
    for path, data in ((shard, shard.read_bytes()[:-1]), (small, small.read_bytes()[::-1])):
        path.chmod(0o644)
        path.write_bytes(data)
    with nginx(tmp_path) as url:
        remote = open_store(f"{url}/lab.act")
        [found] = [found for found in verify(remote) if found.problems]
        assert found.path == entry.path
        there = f"{url}/lab.act/{entry.path}"
        assert (
            f"{there}/hidden_states/c.0.0.0: expected 352 bytes, got 351; run `act verify` on the store"
            in found.problems
        )
        assert f"{there}/max_abs/c.0.0: its bytes are not those that were written" in found.problems
        assert act(capsys, "verify", f"{url}/lab.act").code == 1
        with pytest.raises(Incomplete, match=f"{there}/hidden_states/c.0.0.0: expected 352 bytes, got 351"):
            remote.entry(model="pythia", task="rte").read(0)
        with pytest.raises(Corrupt, match=f"{there}/max_abs/c.0.0: .*checksum"):
            _ = remote.entry(model="pythia", task="rte").max_abs


def test_a_sample_notices_that_a_file_is_missing_though_it_was_not_drawn(tmp_path: Path):
    store = build_tiny_store(tmp_path / "lab.act")
    entry = store.entry(model="pythia", task="rte")
    shard = Path(entry.location) / "hidden_states/c.0.0.0"
    shard.parent.chmod(0o755)
    shard.unlink()
    with nginx(tmp_path) as url:
        remote = open_store(f"{url}/lab.act")
        found = [list(verify(remote, model="pythia", task="rte", share=0.05, seed=seed)) for seed in range(10)]
    assert all(one.problems for [one] in found)


def test_verify_says_that_the_server_failed_and_not_that_the_store_is_damaged(proxy: FaultProxy):
    proxy.rule = lambda method, path, nth: status(503) if path.endswith("labels.json") else None
    with pytest.raises(Unreachable, match=r"labels.json: 1 attempts failed .503"):
        list(verify(Store(impatient(f"{proxy.url}/lab.act", attempts=1))))


# A catalogue that lags behind


def test_an_entry_withdrawn_after_the_catalogue_was_read_is_an_honest_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = build_tiny_store(tmp_path / "lab.act")
    entry = store.entry(model="pythia", task="rte")
    catalog = tmp_path / "lab.act" / "catalog.json"
    before = catalog.read_bytes()
    with nginx(tmp_path) as url:
        opened = open_store(f"{url}/lab.act")
        reading = opened.entry(model="pythia", task="rte")
        withdraw(open_writer(tmp_path / "lab.act"), entry.path, why="wrong template")
        gone = re.escape(f"{url}/lab.act/{entry.path}")
        with pytest.raises(Incomplete, match=f"{gone}/manifest.json: not there"):
            opened.entry(model="pythia", task="rte")
        with pytest.raises(Incomplete, match=f"{gone}/hidden_states/c.0.0.0: not there"):
            reading.read(0)
        with pytest.raises(NotFound, match=r"no entry of model 'pythia' on task 'rte'[\s\S]*wrong template"):
            open_store(f"{url}/lab.act").entry(model="pythia", task="rte")
        after = catalog.read_bytes()
        catalog.write_bytes(before)  # as a cache between would give it
        result = act(capsys, "verify", f"{url}/lab.act")
        assert (result.code, result.out.count("not there")) == (1, 1)
        assert act(capsys, "ls", f"{url}/lab.act").code == 0
        catalog.write_bytes(after)
        assert act(capsys, "verify", f"{url}/lab.act").code == 0


def test_an_entry_committed_after_the_catalogue_was_read_is_not_listed_yet(tmp_path: Path):
    build_tiny_store(tmp_path / "lab.act")
    with nginx(tmp_path) as url:
        opened = open_store(f"{url}/lab.act")
        assert len(opened.records()) == 4
        spec = tiny_spec(model=tiny_model("new", base="0c"))
        write_tiny(open_writer(tmp_path / "lab.act"), spec)
        with pytest.raises(NotFound, match="no model 'new'"):
            opened.entry(model="new", task="rte")
        assert open_store(f"{url}/lab.act").entry(model="new", task="rte").n_examples == 5


def test_a_store_without_a_catalogue_says_so(tmp_path: Path):
    build_tiny_store(tmp_path / "lab.act")
    (tmp_path / "lab.act" / "catalog.json").unlink()
    with nginx(tmp_path) as url, pytest.raises(Incomplete, match=f"{url}/lab.act/catalog.json: not there"):
        open_store(f"{url}/lab.act").records()

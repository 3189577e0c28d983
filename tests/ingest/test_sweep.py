"""A sweep says many checkpoints at once; each base among them is loaded once."""

import shutil

import pytest

from actlas.ingest import Checkpoint, Options, find_adapters, ingest, read_sweep, revisions_of
from actlas.store import InvalidInput, NotFound, Source, open_store
from tests.ingest.checkpoints import tiny_task

CPU = Options(device="cpu")


@pytest.fixture
def table(tmp_path):
    """Writes a sweep.csv."""

    def write(*lines, encoding="utf-8"):
        path = tmp_path / "sweep.csv"
        path.write_text("".join(f"{line}\n" for line in lines), encoding)
        return path

    return write


@pytest.fixture
def loads(monkeypatch):
    """The directories of the bases that were loaded."""
    from actlas.ingest.loading import load_base

    loaded = []

    def counting(base, *more):
        loaded.append(base.directory)
        return load_base(base, *more)

    monkeypatch.setattr("actlas.ingest.residents.load_base", counting)
    return loaded


def hub(cache, name, revisions):
    """Make the layout of the hub's cache: a snapshot for each revision, named by a commit."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for number, (revision, directory) in enumerate(revisions.items()):
        commit = f"{number:040x}"
        shutil.copytree(directory, repository / "snapshots" / commit)
        (repository / "refs" / revision).write_text(commit)


def test_every_column_is_read_and_an_empty_cell_says_nothing(table):
    path = table(
        "name, base ,revision,adapter,trained_on,seed,step,family,owner,note,beta",
        'ctl,org/base,main,org/lora, rte; cb ;,7,-1,pythia,ada,"a, b",0.5',
        "",
        ",org/plain,,,,,,,,,",
    )
    control, plain = read_sweep(path)
    assert control == Checkpoint(
        base="org/base", revision="main", adapter="org/lora", name="ctl", trained_on=("rte", "cb"),
        labels={"seed": 7, "step": -1, "family": "pythia", "owner": "ada", "note": "a, b", "beta": 0.5},
    )  # fmt: skip
    assert plain == Checkpoint(base="org/plain")
    assert (control.origin, plain.origin) == (f"{path}, line 2", f"{path}, line 4")


@pytest.mark.parametrize("text", ["NaN", "1e999", "[" * 100_000, "{"])
def test_a_label_that_json_cannot_hold_stays_text(text, table):
    (checkpoint,) = read_sweep(table("base,note", f"x,{text}"))
    assert checkpoint.labels == {"note": text}


def test_a_byte_order_mark_and_other_line_ends_are_no_matter(table):
    path = table("base,seed\r", "x,1\r", encoding="utf-8-sig")
    assert read_sweep(path) == [Checkpoint(base="x", labels={"seed": 1})]


def test_a_relative_path_is_of_the_tables_folder_where_it_exists_there(table, tmp_path):
    (tmp_path / "near").mkdir()
    near, far = read_sweep(table("base,adapter", "near,far", "far,near"))
    assert (near.base, near.adapter) == (str(tmp_path / "near"), "far")
    assert (far.base, far.adapter) == ("far", str(tmp_path / "near"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"sweep.csv, line 1: expected a column 'base', got an empty file"),
        (["name,bass", "a,b"], r"line 1: expected a column 'base', got 'name', 'bass'; the columns are name, base"),
        (["name\tbase", "a\tb"], r"line 1: expected a column 'base', .*separated by commas"),
        (["base,base", "a,b"], r"line 1: two columns are called 'base'"),
        (["base,", "a,b"], r"line 1: '' cannot be a label"),
        (["base,checksum", "a,b"], r"line 1: 'checksum' cannot be a label of a model; rename the column"),
        (["base"], r"sweep.csv: expected a row for each checkpoint below the header, got none"),
        (["base,name", ",a"], r"line 2: expected a base, got an empty cell"),
        (["base,name", "a", "b,c"], r"line 2: expected 2 cells as in the header, got 1"),
        (["base,name", "a,b", "c,d,e"], r"line 3: expected 2 cells as in the header, got 3; quote a cell"),
        (["base,seed", "a,1.5"], r"line 2: seed '1.5': expected a whole number such as 1000"),
        (["base,step", "a,step9"], r"line 2: step 'step9': expected a whole number"),
        (["base,name", "x,a", "y,b", "z,a"], r"line 4: a is the name of line 2 already; give each its own in the column"),
        (["base", "org/Llama 2"], r"line 2: model name 'Llama 2' is not a slug.*'llama-2' would do; choose one in the col"),
        (["base,name", '"a,b'], r"line 2: not CSV \(unexpected end of data\)"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused_by_line(lines, message, table):
    with pytest.raises(InvalidInput, match=message):
        read_sweep(table(*lines))


def test_what_is_no_text_file_is_refused(table, tmp_path):
    with pytest.raises(NotFound, match=r"none.csv: there is no such file; expected a CSV file"):
        read_sweep(tmp_path / "none.csv")
    with pytest.raises(InvalidInput, match=r"cannot be read \(Is a directory\)"):
        read_sweep(tmp_path)
    with pytest.raises(InvalidInput, match=r"sweep.csv: not UTF-8 .* save it as CSV UTF-8"):
        read_sweep(table("base", "größe", encoding="latin-1"))


def test_what_is_wrong_with_a_checkpoint_names_its_line(table, llama, root):
    task = tiny_task(4)
    for row, error, message in (
        ("nobody/here,,", NotFound, "nobody/here: not a directory"),
        (f"{'x' * 5000},,", NotFound, "x: not a directory"),
        (f"{llama},{llama},", Source, "not a PEFT adapter"),
        (f"{llama},,rta", NotFound, "x is said to be trained on 'rta', .*did you mean 'rte'"),
    ):
        path = table("name,base,adapter,trained_on", f"fine,{llama},,", f"x,{row}")
        with pytest.raises(error, match=f"^{path}, line 3: .*{message}"):
            ingest(root, read_sweep(path), [task], CPU)
    assert not root.exists()


def test_two_bases_in_turns_are_loaded_once_each(table, llama, bases, adapters, root, loads):
    other, own = bases("llama", seed=5), adapters(seed=31)
    foreign = adapters(base=other, seed=32)
    table("name,base,adapter", f"a,{llama},", f"b,{other},{foreign}", f"c,{llama}/,{own}", f"d,{other.parent}/./llama,")
    report = ingest(root, read_sweep(root.parent / "sweep.csv"), [tiny_task(4)], CPU)
    assert loads == [llama, other]
    assert [entry.model for entry in report.written] == ["a", "c", "b", "d"]


def test_twelve_adapters_over_one_base_load_it_once(llama, adapters, root, loads, tmp_path):
    for number in range(12):
        shutil.copytree(adapters(seed=40 + number % 3), tmp_path / "loras" / f"lora-{number:02}")
    (tmp_path / "loras" / "notes").mkdir()
    found = find_adapters([str(tmp_path / "loras" / "*"), str(tmp_path / "loras" / "lora-03")])
    assert [place[-7:] for place in found] == [f"lora-{number:02}" for number in range(12)]
    report = ingest(root, [Checkpoint(base=str(llama), adapter=place) for place in found], [tiny_task(3)], CPU)
    assert loads == [llama]
    assert [entry.model for entry in report.written] == [f"lora-{number:02}" for number in range(12)]
    assert len({entry.id for entry in report.written}) == 3


def test_patterns_that_name_no_adapter_are_refused(tmp_path):
    with pytest.raises(
        NotFound, match=r"no\*': expected directories with an adapter_config.json, but it names nothing"
    ):
        find_adapters([str(tmp_path / "no*")])
    (tmp_path / "a").mkdir()
    with pytest.raises(NotFound, match="none of the 1 that it names has one"):
        find_adapters([str(tmp_path / "*")])


def test_labels_are_kept_with_the_model_also_when_its_entries_are_there(table, llama, root):
    task = tiny_task(4)
    ingest(root, read_sweep(table("name,base,step,family", f"m,{llama},3,tiny")), [task], CPU)
    store = open_store(root)
    assert store.labels("m") == {"step": 3, "family": "tiny"}
    again = read_sweep(table("name,base,owner,family", f"m,{llama},ada,"))
    assert ingest(root, again, [task], CPU).written == ()
    assert store.labels("m") == {"step": 3, "family": "tiny", "owner": "ada"}


@pytest.mark.parametrize(
    ("revision", "labels"),
    [
        ("step1000", {"step": 1000}),
        ("global_step-32", {"step": 32}),
        ("stage1-step140000-tokens294B", {"step": 140000}),
        ("main", {}),
        ("footstep3", {}),
    ],
)
def test_a_revision_may_tell_the_step(revision, labels):
    (checkpoint,) = revisions_of("org/model", [revision])
    assert checkpoint == Checkpoint(base="org/model", revision=revision, name=f"model-{revision}", labels=labels)


def test_revisions_of_a_directory_or_named_twice_are_refused(llama):
    with pytest.raises(InvalidInput, match="is a directory and has no revisions"):
        revisions_of(str(llama), ["main"])
    for wrong in (["a", ""], ["a", "a"], [""]):
        with pytest.raises(InvalidInput, match="expected each once, separated by commas"):
            revisions_of("org/model", wrong)


def test_revisions_in_the_hubs_cache_are_models_of_their_own(bases, root, tmp_path, monkeypatch, loads):
    steps = {"step0": bases("llama", seed=60), "step1000": bases("llama", seed=61)}
    hub(tmp_path / "hub", "lab/tiny", steps)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    report = ingest(root, revisions_of("lab/tiny", list(steps)), [tiny_task(4)], CPU)
    assert [entry.model for entry in report.written] == ["tiny-step0", "tiny-step1000"]
    assert len({entry.id for entry in report.written}) == 2
    assert len(loads) == 2
    store = open_store(root)
    assert store.labels("tiny-step1000") == {"step": 1000}
    assert (store.model("tiny-step1000").base, store.model("tiny-step1000").revision) == ("lab/tiny", "step1000")
    with pytest.raises(NotFound, match="no model of this name at step2 is in the local cache"):
        ingest(root, revisions_of("lab/tiny", ["step2"]), [tiny_task(4)], CPU)

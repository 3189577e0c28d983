"""Clusters: FLAN's by name, a user's from a file, and what a label has to say against them."""

import pytest

from actlas.ingest import Checkpoint, Options, ingest, load_clusters
from actlas.ingest.clusters import cluster_of
from actlas.store import InvalidInput, NotFound, make_task, open_store, open_writer
from tests.ingest.checkpoints import prompts


def write(path, data):
    path.write_bytes(data)
    return path


def task_of(slug):
    return make_task(slug, [{"prompt": prompt, "target": ""} for prompt in prompts(3)])


def ingested(root, base, *slugs, **clusters):
    ingest(
        root,
        [Checkpoint(base=str(base), name="base")],
        [task_of(slug) for slug in slugs],
        Options(device="cpu", clusters=clusters),
    )
    return {slug: open_store(root).task_labels(slug).get("cluster") for slug in slugs}


def test_flans_tasks_are_known_and_a_name_given_wins():
    assert (cluster_of("rte"), cluster_of("mine"), cluster_of("rte", {"rte": "x"})) == ("nli", None, "x")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("c.csv", b"task,cluster\nrte,inference\nmine,own\n"),
        ("c.tsv", b"\xef\xbb\xbfrte\tinference\r\n\r\nmine\town\r\nmine\town\r\n"),
        ("c.txt", b'rte, inference\n"mine","own"'),
    ],
)
def test_a_file_names_clusters_with_and_without_a_header(name, data, tmp_path):
    assert load_clusters(write(tmp_path / name, data)) == {"rte": "inference", "mine": "own"}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", r"c\.csv: expected at least one task with its cluster, got none"),
        (b"task,cluster\n", "expected at least one task with its cluster, got none"),
        (b"rte,nli\ncb\n", r"line 2: expected two cells, task and cluster, got 'cb'"),
        (b"rte\tnli\n", r"line 1: expected two cells, task and cluster, got 'rte\\tnli'; tabs need a name that ends"),
        (b"rte,\n", "line 1: expected two cells, task and cluster, got 'rte', ''"),
        (b"RTE,nli\n", "line 1: task name 'RTE' is not a slug.*'rte' would do"),
        (b"rte,nli\nrte,other\n", "line 2: task rte is in cluster nli by an earlier line, in other by this"),
        (b"rte,\xff\n", "line 1: expected UTF-8"),
    ],
    ids=range(8),
)
def test_a_file_that_names_no_clusters_is_refused_with_its_line(data, match, tmp_path):
    with pytest.raises(InvalidInput, match=match):
        load_clusters(write(tmp_path / "c.csv", data))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NotFound, match=r"no clusters file at .*gone\.csv: expected a \.csv or \.tsv file"):
        load_clusters(tmp_path / "gone.csv")


def test_an_ingest_labels_its_tasks_whether_they_are_computed_or_there(root, llama):
    assert ingested(root, llama, "rte", "mine") == {"rte": "nli", "mine": None}
    assert ingested(root, llama, "rte", "mine", mine="own") == {"rte": "nli", "mine": "own"}


def test_a_label_gives_way_only_to_what_is_named_now(root, llama):
    ingested(root, llama, "rte")
    open_writer(root).label_task("rte", {"cluster": "by hand", "licence": "free"})
    assert ingested(root, llama, "rte") == {"rte": "by hand"}
    assert ingested(root, llama, "rte", other="x") == {"rte": "by hand"}
    assert ingested(root, llama, "rte", rte="named") == {"rte": "named"}
    assert open_store(root).task_labels("rte")["licence"] == "free"


def test_a_dry_run_labels_nothing(root, llama):
    ingested(root, llama, "mine")
    ingest(
        root,
        [Checkpoint(base=str(llama), name="base")],
        [task_of("mine")],
        Options(device="cpu", clusters={"mine": "own"}),
        dry_run=True,
    )
    assert open_store(root).task_labels("mine") == {}

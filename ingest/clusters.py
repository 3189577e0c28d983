"""Clusters: the groups of tasks of FLAN 2021, known by name, and those that a user names; kept as labels of tasks.

Source: Wei et al. 2022, "Finetuned Language Models Are Zero-Shot Learners", figure 3 and its public code.
"""

from collections.abc import Mapping
from pathlib import Path

from actlas.ingest.readers import read_cells
from actlas.store import InvalidInput, NotFound, StoreWriter, check_slug
from actlas.store.labels import CLUSTER

FLAN_2021: dict[str, tuple[str, ...]] = {
    "summarization": (
        "aeslc",
        "cnn_dailymail",
        "gigaword",
        "multi_news",
        "newsroom",
        "samsum",
        "xsum",
        "ag_news_subset",
        "opinion_abstracts_rotten_tomatoes",
        "opinion_abstracts_idebate",
        "wiki_lingua_english_en",
    ),
    "struct_to_text": ("web_nlg_en", "common_gen", "e2e_nlg", "dart"),
    "reading_comprehension": ("squad_v1", "squad_v2", "drop", "multirc", "openbookqa", "bool_q"),
    "closed_book_qa": ("trivia_qa", "natural_questions", "arc_challenge", "arc_easy"),
    "paraphrase": ("glue_mrpc", "glue_qqp", "paws_wiki", "stsb"),
    "sentiment": ("imdb_reviews", "sentiment140", "yelp_polarity_reviews", "sst2"),
    "commonsense": ("copa", "hellaswag", "story_cloze", "piqa"),
    "translation": (
        "para_crawl_enes",
        "wmt14_enfr",
        "wmt16_translate_deen",
        "wmt16_translate_tren",
        "wmt16_translate_csen",
        "wmt16_translate_fien",
        "wmt16_translate_roen",
        "wmt16_translate_ruen",
    ),
    "coreference": ("definite_pronoun_resolution", "winogrande", "wsc"),
    "nli": ("anli_r1", "anli_r2", "anli_r3", "cb", "rte", "mnli_matched", "mnli_mismatched", "qnli", "wnli", "snli"),
    "reading_comp_w_commonsense": ("record", "cosmos_qa"),
    "misc": ("math_dataset", "quac", "coqa", "wic", "cola", "trec", "true_case", "fix_punct", "word_segment"),
}

_CLUSTER_OF = {task: cluster for cluster, tasks in FLAN_2021.items() for task in tasks}


def cluster_of(task: str, named: Mapping[str, str] | None = None) -> str | None:
    """Return the cluster of a task: what the user named, else FLAN's, else None.

    Parameters
    ----------
    task : str
        Its slug.
    named : mapping, optional
        From slug to cluster.
    """
    return (named or {}).get(task) or _CLUSTER_OF.get(task)


def load_clusters(path: str | Path) -> dict[str, str]:
    """Return the cluster of each task that a file names.

    Parameters
    ----------
    path : path
        Two columns, task and cluster, between commas, or between tabs when its name ends in .tsv. A header is no task.

    Raises
    ------
    NotFound
        When there is no such file.
    InvalidInput
        When it cannot be read, a line has other cells, or a task stands in it twice with different clusters.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"no clusters file at {path}: expected a .csv or .tsv file with the columns task and cluster")
    named: dict[str, str] = {}
    for number, (where, cells) in enumerate(read_cells(path, "\t" if path.suffix == ".tsv" else ",")):
        cells = [cell.strip() for cell in cells]
        if len(cells) != 2 or not all(cells):
            raise InvalidInput(
                f"{where}: expected two cells, task and cluster, got {', '.join(map(repr, cells))}"
                "; tabs need a name that ends in .tsv"
            )
        task, cluster = cells
        if number == 0 and task.lower() == "task":
            continue
        if named.setdefault(check_slug(task, f"{where}: task"), cluster) != cluster:
            raise InvalidInput(
                f"{where}: task {task} is in cluster {named[task]} by an earlier line, in {cluster} by this"
            )
    if not named:
        raise InvalidInput(f"{path}: expected at least one task with its cluster, got none")
    return named


def label_cluster(writer: StoreWriter, task: str, named: Mapping[str, str]) -> None:
    """Label a task that has entries with its cluster; a label that it has gives way only to what the user names now."""
    known = CLUSTER in writer.reader.task_labels(task)
    cluster = named.get(task) if known else cluster_of(task, named)
    if cluster is not None:
        writer.label_task(task, {CLUSTER: cluster})

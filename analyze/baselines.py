"""What a model is set against to see how much of a CKA is the model's: things that need no training.

A randomly initialised model of the same config is another such baseline: ingest it (``act ingest --random-init``) and name it
among the models.
"""

from collections.abc import Iterator

import numpy as np

from actlas.analyze.representation import ArrayRepresentation, Representation, StoredRepresentation
from actlas.store import Entry

TEMPLATE = "template_id"  # the column that says which template an example was rendered with

LAYER_0, LENGTH, TEMPLATES = "(layer 0)", "(prompt length)", "(template)"


def baselines(entry: Entry) -> Iterator[tuple[str, Representation]]:
    """Yield name and representation of each baseline of an entry.

    ``(layer 0)``, the input of its first block, where it is kept; ``(prompt length)``, the number of tokens, (n, 1);
    ``(template)``, which template an example was rendered with, one-hot, where the task says.
    """
    if 0 in entry.layers:
        yield LAYER_0, StoredRepresentation(entry=entry, layer=0)
    lengths = np.asarray(entry.n_tokens, np.float64)[:, None]
    yield LENGTH, ArrayRepresentation(lengths, (entry.path, LENGTH))
    task = entry.read_task()
    column = task.column(TEMPLATE)
    if column is not None:
        of_example = dict(zip(task.example_ids, map(str, column), strict=True))
        _, numbers = np.unique([of_example[example] for example in entry.example_ids], return_inverse=True)
        yield TEMPLATES, ArrayRepresentation(np.eye(numbers.max() + 1)[numbers], (entry.path, TEMPLATES))

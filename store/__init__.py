"""actlas.store: hidden states of language models in a compressed, checked Zarr store. No torch, no dask."""

from actlas.store.arrays import StoredArray
from actlas.store.entry import Entry
from actlas.store.errors import (
    ActError,
    AlreadyExists,
    Corrupt,
    Incomplete,
    InvalidInput,
    MemoryBudget,
    Mismatch,
    NotFound,
    ReadOnly,
    Source,
    near_misses,
)
from actlas.store.identity import EntryIdentity
from actlas.store.layout import BATCH_TOKENS, FORMAT
from actlas.store.model import Model, ModelIdentity, check_name_is_free
from actlas.store.reader import Store, open_store
from actlas.store.slug import check_slug, suggest_slug
from actlas.store.task import GROUPING, Task, example_id, make_task
from actlas.store.verify import Verified, verify
from actlas.store.writer import EntrySpec, EntryWriter, StoreWriter, create_store, open_writer

__all__ = [
    "BATCH_TOKENS",
    "FORMAT",
    "GROUPING",
    "ActError",
    "AlreadyExists",
    "Corrupt",
    "Entry",
    "EntryIdentity",
    "EntrySpec",
    "EntryWriter",
    "Incomplete",
    "InvalidInput",
    "MemoryBudget",
    "Mismatch",
    "Model",
    "ModelIdentity",
    "NotFound",
    "ReadOnly",
    "Source",
    "Store",
    "StoreWriter",
    "StoredArray",
    "Task",
    "Verified",
    "check_name_is_free",
    "check_slug",
    "create_store",
    "example_id",
    "make_task",
    "near_misses",
    "open_store",
    "open_writer",
    "suggest_slug",
    "verify",
]

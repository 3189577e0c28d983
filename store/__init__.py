"""actlas.store: hidden states of language models in a compressed, checked Zarr store. No torch, no dask."""

from actlas.store.arrays import StoredArray
from actlas.store.catalog import Listing, Record
from actlas.store.codec import CODEC, CODECS
from actlas.store.entry import Entry
from actlas.store.entry_writer import EntryWriter
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
    Unreachable,
    near_misses,
)
from actlas.store.identity import EntryIdentity
from actlas.store.layout import BATCH_TOKENS, FORMAT, store_exists
from actlas.store.model import Model, ModelIdentity
from actlas.store.reader import Store, open_store
from actlas.store.slug import check_slug, suggest_slug
from actlas.store.spec import EntrySpec
from actlas.store.task import GROUPING, Task, example_id, make_task
from actlas.store.tombstone import Tombstone
from actlas.store.verify import Verified, verify
from actlas.store.writer import StoreWriter, create_store, open_writer, writable_root

__all__ = [
    "BATCH_TOKENS",
    "CODEC",
    "CODECS",
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
    "Listing",
    "MemoryBudget",
    "Mismatch",
    "Model",
    "ModelIdentity",
    "NotFound",
    "ReadOnly",
    "Record",
    "Source",
    "Store",
    "StoreWriter",
    "StoredArray",
    "Task",
    "Tombstone",
    "Unreachable",
    "Verified",
    "check_slug",
    "create_store",
    "example_id",
    "make_task",
    "near_misses",
    "open_store",
    "open_writer",
    "store_exists",
    "suggest_slug",
    "verify",
    "writable_root",
]

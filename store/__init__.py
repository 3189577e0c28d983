"""actlas.store: hidden states of language models in a compressed, checked Zarr store. No torch, no dask."""

from actlas.store.arrays import StoredArray
from actlas.store.catalog import Listing, Record
from actlas.store.codec import CODEC, CODECS
from actlas.store.collect import Leftover, collect
from actlas.store.copying import Copied, copy_records
from actlas.store.copying import copy as copy_entries
from actlas.store.doctor import Finding, examine
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
from actlas.store.exporting import export_entry
from actlas.store.forms import FORMS
from actlas.store.identity import EntryIdentity
from actlas.store.importing import Imported, import_entries
from actlas.store.layout import BATCH_TOKENS, FORMAT, store_exists
from actlas.store.limit import read_limit, write_limit
from actlas.store.model import Model, ModelIdentity
from actlas.store.reader import Store, open_store
from actlas.store.restricted import check_not_restricted
from actlas.store.slug import check_slug, suggest_slug
from actlas.store.spec import EntrySpec
from actlas.store.task import GROUPING, Task, example_id, make_task
from actlas.store.task_summary import TaskSummary, summarise_tasks
from actlas.store.tombstone import Tombstone
from actlas.store.usage import Usage, usage
from actlas.store.verify import SAMPLE, Depth, Verified, check_entry, entry_paths, verify
from actlas.store.withdraw import find_withdrawable, withdraw
from actlas.store.writer import StoreWriter, create_store, open_writer, writable_root

__all__ = [
    "BATCH_TOKENS",
    "CODEC",
    "CODECS",
    "FORMAT",
    "FORMS",
    "GROUPING",
    "SAMPLE",
    "ActError",
    "AlreadyExists",
    "Copied",
    "Corrupt",
    "Depth",
    "Entry",
    "EntryIdentity",
    "EntrySpec",
    "EntryWriter",
    "Finding",
    "Imported",
    "Incomplete",
    "InvalidInput",
    "Leftover",
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
    "TaskSummary",
    "Tombstone",
    "Unreachable",
    "Usage",
    "Verified",
    "check_entry",
    "check_not_restricted",
    "check_slug",
    "collect",
    "copy_entries",
    "copy_records",
    "create_store",
    "entry_paths",
    "examine",
    "example_id",
    "export_entry",
    "find_withdrawable",
    "import_entries",
    "make_task",
    "near_misses",
    "open_store",
    "open_writer",
    "read_limit",
    "store_exists",
    "suggest_slug",
    "summarise_tasks",
    "usage",
    "verify",
    "withdraw",
    "writable_root",
    "write_limit",
]

"""actlas.ingest: run checkpoints over tasks and keep their hidden states. The only home of torch."""

from actlas.ingest.checkpoint import Checkpoint
from actlas.ingest.progress import Forecast, Progress
from actlas.ingest.rendering import RENDERINGS
from actlas.ingest.run import Options, Report, ingest
from actlas.ingest.status import EntryStatus, ingest_status
from actlas.ingest.sweep import find_adapters, read_sweep, revisions_of
from actlas.ingest.task_files import Fields, load_tasks

__all__ = [
    "RENDERINGS",
    "Checkpoint",
    "EntryStatus",
    "Fields",
    "Forecast",
    "Options",
    "Progress",
    "Report",
    "find_adapters",
    "ingest",
    "ingest_status",
    "load_tasks",
    "read_sweep",
    "revisions_of",
]

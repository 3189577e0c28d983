"""actlas.ingest: run checkpoints over tasks and keep their hidden states. The only home of torch."""

from actlas.ingest.checkpoint import Checkpoint
from actlas.ingest.clusters import load_clusters
from actlas.ingest.fields import Fields
from actlas.ingest.options import Options
from actlas.ingest.positions import POSITIONS
from actlas.ingest.progress import Forecast, Progress
from actlas.ingest.rendering import RENDERINGS, Rendering, load_rendering
from actlas.ingest.run import Report, ingest
from actlas.ingest.sample import sample_task
from actlas.ingest.status import EntryStatus, ingest_status
from actlas.ingest.sweep import find_adapters, read_sweep, revisions_of
from actlas.ingest.task_files import load_tasks

__all__ = [
    "POSITIONS",
    "RENDERINGS",
    "Checkpoint",
    "EntryStatus",
    "Fields",
    "Forecast",
    "Options",
    "Progress",
    "Rendering",
    "Report",
    "find_adapters",
    "ingest",
    "ingest_status",
    "load_clusters",
    "load_rendering",
    "load_tasks",
    "read_sweep",
    "revisions_of",
    "sample_task",
]

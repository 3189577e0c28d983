"""Notes: what a user should know of an ingest before it begins."""

from collections.abc import Sequence

from actlas.ingest.jobs import Resident, all_jobs
from actlas.ingest.progress import Progress
from actlas.store import Entry, Task


def say_what_is_special(
    tasks: Sequence[Task], residents: Sequence[Resident], present: Sequence[Entry], progress: Progress
) -> None:
    """Tell of drawn, doubled and left out examples, of cut prompts, and of entries that are there."""
    _say_draws(residents, progress)
    _say_tasks(tasks, progress)
    _say_tokens(residents, progress)
    for entry in present:
        progress.note(f"already there, not computed again: {entry.label}")


def _say_draws(residents: Sequence[Resident], progress: Progress) -> None:
    for run in (run for resident in residents for run in resident.runs):
        if run.draw and run.jobs:
            progress.note(
                f"{run.checkpoint.slug}: off target, drawn with seed {run.draw.seed}: {', '.join(run.draw.tasks)}"
            )


def _say_tasks(tasks: Sequence[Task], progress: Progress) -> None:
    for task in tasks:
        if task.n_duplicates:
            progress.note(
                f"task {task.slug}: {task.n_duplicates} exact duplicates kept once, {len(task)} examples remain"
            )
        if task.n_available is not None:
            progress.note(
                f"task {task.slug}: {len(task)} of {task.n_available} examples are taken, drawn with seed {task.seed}"
            )


def _say_tokens(residents: Sequence[Resident], progress: Progress) -> None:
    seen = {
        (job.task.slug, job.rendering): (job.tokenized, resident.base)
        for resident, job in all_jobs(residents)
        if job.tokenized.n_truncated or job.tokenized.n_apart
    }
    for (slug, rendering), (tokenized, base) in seen.items():
        if tokenized.n_truncated:
            progress.note(
                f"task {slug} ({rendering}): {tokenized.n_truncated} prompts cut at their beginning to {base.max_tokens} tokens"
                + (", targets included" if tokenized.has_targets else "")
            )
        if tokenized.n_apart:
            progress.note(
                f"task {slug} ({rendering}): {tokenized.n_apart} targets tokenized apart from their prompts, for with them the "
                "prompts' last tokens are others"
            )

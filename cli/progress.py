"""The live display of an ingest: bars on a terminal, plain lines elsewhere; all on stderr."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actlas.cli.display import bytes_text, seconds_text
from actlas.ingest import Forecast
from actlas.ingest import Progress as IngestProgress

_LINE_SECONDS = 10.0


class IngestDisplay(IngestProgress):
    """Shows examples, tokens a second, padding, the share of the device's peak, the slower stage, bytes and the time left."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._forecast: Forecast | None = None
        self._label = ""
        self._examples = self._tokens = self._padded = self._skipped = self._bytes = 0
        self._waited: defaultdict[str, float] = defaultdict(float)
        self._start = self._last_line = time.monotonic()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the bars on the terminal for as long as the ingest runs."""
        if not sys.stderr.isatty():
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as self._bars:
            yield

    def start(self, forecast: Forecast) -> None:
        """Say what is going to happen."""
        self._forecast = forecast
        self.note(forecast_text(forecast))
        self._start = self._last_line = time.monotonic()
        if self._bars is not None:
            self._task = self._bars.add_task("ingest", total=forecast.n_examples, rate="")

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        if self._bars is not None:
            self._bars.console.print(message, highlight=False, soft_wrap=True)
        else:
            click.echo(message, err=True)

    def entry(self, label: str) -> None:
        """Name the entry at hand."""
        self._label = label
        if self._bars is None:
            click.echo(f"ingest {label}", err=True)

    def advance(self, n_examples: int, n_tokens: int, n_padded: int) -> None:
        """Count a batch."""
        self._examples += n_examples
        self._tokens += n_tokens
        self._padded += n_padded
        if self._bars is not None:
            self._bars.update(self._task, advance=n_examples, description=self._label, rate=self.rate())
        elif time.monotonic() - self._last_line > _LINE_SECONDS and self._forecast is not None:
            self._last_line = time.monotonic()
            n_left = self._forecast.n_padded - self._skipped - self._padded
            left = (self._last_line - self._start) * n_left / self._padded
            click.echo(
                f"  {self._examples} of {self._forecast.n_examples} examples, {self.rate()}, {seconds_text(left)} left",
                err=True,
            )

    def skip(self, n_examples: int, n_padded: int) -> None:
        """Count examples that need no work."""
        self._examples += n_examples
        self._skipped += n_padded
        if self._bars is not None:
            self._bars.update(self._task, advance=n_examples)

    def wrote(self, n_bytes: int) -> None:
        """Count what is on the disk; one thread calls this."""
        self._bytes += n_bytes

    def waiting(self, stage: str, seconds: float) -> None:
        """Count time that the model waited for a later stage."""
        self._waited[stage] += seconds

    def rate(self) -> str:
        """Return speed, padding, the share of the device's peak, the bottleneck and the bytes in one line."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        stage = next((stage for stage, seconds in self._waited.items() if seconds > elapsed / 2), "the model")
        return (
            f"{self._tokens / elapsed:,.0f} tokens/s, {1 - self._tokens / max(1, self._padded):.0%} padding, "
            f"{self._utilisation(elapsed)}bound by {stage}, {bytes_text(self._bytes)} written"
        )

    def _utilisation(self, elapsed: float) -> str:
        """Return the model's FLOP utilisation: of useful tokens, not of padding."""
        if self._forecast is None or self._forecast.peak_operations is None:
            return ""
        done = self._forecast.operations_per_token * self._tokens / elapsed
        return f"{done / self._forecast.peak_operations:.0%} of the device's peak, "

    def summary(self) -> None:
        """Say what was done, where anything was."""
        if self._padded:
            seconds = time.monotonic() - self._start
            self.note(f"{self._examples:,} examples in {seconds_text(seconds)}: {self.rate()}")


def forecast_text(forecast: Forecast) -> str:
    """Return a forecast in one line."""
    return (
        f"{forecast.n_entries} entries to compute, {forecast.n_present} there already: {forecast.n_examples:,} examples, "
        f"{forecast.n_tokens:,} tokens ({forecast.n_padded:,} with padding), up to {bytes_text(forecast.n_bytes)} "
        f"({bytes_text(forecast.free_bytes)} free), at least {seconds_text(forecast.least_seconds)} on this device"
    )

"""Options: how an ingest runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from actlas.ingest.rendering import Rendering
from actlas.store import CODEC


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an ingest runs; see `ingest`."""

    renderings: tuple[str | Rendering, ...] = ("raw",)
    positions: tuple[str, ...] = ("last",)
    layers: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    devices: tuple[str, ...] | None = None
    all_tasks: bool = False
    off_target: int | None = None
    seed: int = 0
    clusters: Mapping[str, str] = field(default_factory=dict)
    allow_base_mismatch: bool = False
    codec: str = CODEC
    outputs: bool = False
    batch_tokens: int | None = None
    shard: str | None = None

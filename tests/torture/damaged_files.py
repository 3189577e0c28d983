"""A file is deleted, cut short, or replaced by the same file of another entry: opening or `verify` names it."""

import dataclasses
from pathlib import Path

from actlas.store import ActError, Entry, StoreWriter, create_store, open_store
from tests.store.tiny import (
    everything,
    folder,
    problems_of,
    replaced,
    tiny_model,
    tiny_spec,
    tiny_task,
    tiny_values,
    unlock,
    write_tiny,
)
from tests.torture.count import Count
from tests.torture.exact import scratch

MODEL, TASK = "pythia", "rte"

# Files that need not be there: that they are missing says nothing.
OPTIONAL = ("labels.json", "catalog.json")


def run(codec: str, dtype: str) -> Count:
    """Damage every file of an entry, and those around it, in every way."""
    count = Count(0)
    n_rounds = 0
    with scratch() as directory:
        writer = create_store(directory / "lab.act")
        entry, twin = (_write(writer, codec, dtype, number) for number in (0, 1))
        other = _write(create_store(directory / "other.act"), codec, dtype, 2)
        unlock(directory)
        exact = everything(entry)
        for path, twin_path in _files(entry, twin, other).items():
            data = path.read_bytes()
            whole = len(data.rstrip(b"\n")) if path.suffix == ".json" else len(data)
            damages = {f"cut to {kept}": data[:length] for kept, length in _cuts(whole).items()}
            if twin_path is not None:
                damages["swapped"] = twin_path.read_bytes()
            if path.name not in OPTIONAL:
                damages["deleted"] = None
            for what, damaged in damages.items():
                assert damaged != data, f"{path}: nothing is damaged"
                with replaced(path, damaged):
                    outcome = _outcome(writer.root, path, entry.path, exact)
                assert outcome != "read as its twin" or what == "swapped"
                # An entry is not opened when any of its files is missing or has another size.
                assert outcome == "refused on opening" or what == "swapped" or not path.is_relative_to(folder(entry))
                count.seen[what.partition(" ")[0]] += 1
                count.seen[outcome] += 1
                n_rounds += 1
        assert problems_of(open_store(writer.root)) == ""
    return Count(n_rounds, count.seen)


def _write(writer: StoreWriter, codec: str, dtype: str, number: int) -> Entry:
    """Entries of the same shapes and sizes and of other values; the third belongs to another checkpoint of that name."""
    task = tiny_task(300, TASK)
    model = tiny_model(MODEL, base="0c" if number == 2 else "ba")
    spec = tiny_spec(model=model, task=task, dtype=dtype, plan_digest=f"{number:02}" * 32)
    spec = dataclasses.replace(
        spec, codec=codec, token_digests=[f"{row + number:032x}" for row in range(300)], n_tokens=[3 + number] * 300
    )
    provenance = {"run": number}
    return write_tiny(writer, spec, tiny_values(spec, number), provenance=provenance, labels={"run": number})


def _cuts(length: int) -> dict[str, int]:
    return {"nothing": 0, "one byte": 1, "half": length // 2, "all but one byte": length - 1}


def _files(entry: Entry, twin: Entry, other: Entry) -> dict[Path, Path | None]:
    """Every file of the entry and around it, with the file that could be taken for it."""
    files: dict[Path, Path | None] = {}
    for name in [*entry.manifest.files, "manifest.json"]:
        here, there = folder(entry) / name, folder(twin) / name
        files[here] = (
            there if here.read_bytes() != there.read_bytes() else None
        )  # the same shapes have the same metadata
    root, elsewhere = folder(entry).parents[3], folder(other).parents[3]
    tables = (root / "tasks" / TASK).glob("*.parquet*")
    model = Path("models") / MODEL
    files[root / model / "model.json"] = elsewhere / model / "model.json"
    around = [*tables, root / model / "labels.json", root / "catalog.json", root / "zarr.json"]
    groups = [root / "models" / place / "zarr.json" for place in ("", MODEL, f"{MODEL}/{TASK}")]
    return files | dict.fromkeys([*around, *groups])


def _outcome(store_root: Path, path: Path, place: str, exact: dict[str, bytes]) -> str:
    """Assert that opening or `verify` names a damaged file, and return what a reader gets who does not verify."""
    try:
        named = problems_of(open_store(store_root))
    except ActError as error:
        named = str(error)
    assert _names(named, path), f"{path}: not named by {named!r}"
    try:
        entries = [one for one in open_store(store_root).entries(model=MODEL) if one.path == place]
        if not entries:
            return "refused on opening"
        entries[0].hidden_states  # noqa: B018  opening is the check
    except ActError as error:
        return _refused_on_opening(error, path)
    try:
        found = everything(entries[0])
    except ActError:
        return "refused on read"
    return "read exactly" if found == exact else "read as its twin"


def _refused_on_opening(error: ActError, path: Path) -> str:
    assert _names(str(error), path), f"{path}: not named by {error}"
    return "refused on opening"


def _names(text: str, path: Path) -> bool:
    """Whether a message names a file; of a manifest that lies about the others, it names one of these."""
    return str(path.parent) in text and (path.name in text or path.name == "manifest.json")

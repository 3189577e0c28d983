"""Exporting: an entry leaves the store in a form that others read, whole or not at all."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from actlas.store.disk import Disk
from actlas.store.entry import Entry
from actlas.store.errors import AlreadyExists, InvalidInput
from actlas.store.forms import FORMS, Excerpt, Form
from actlas.store.reader import Store
from actlas.store.restricted import check_not_restricted
from actlas.store.storage import LocalStorage


def export_entry(
    store: Store,
    entry: Entry,
    directory: str | Path,
    *,
    form: str = "npy",
    layers: Sequence[int] | None = None,
    allow_restricted: bool = False,
    disk: Disk | None = None,
) -> Path:
    """Write an entry as plain files below `directory`, at ``<model>/<task>``.

    Parameters
    ----------
    store : Store
        The store that the entry stands in.
    entry : Entry
        What is exported; its values are checked as they are read.
    directory : path
        Made when it is not there.
    form : {"npy", "safetensors", "zarr"}
        A directory with a .npy file a layer and a table of the examples; one .safetensors file; or a plain Zarr group
        for xarray. Only safetensors has a bfloat16, the others hold its values as float32.
    layers : sequence of int, optional
        Layers to export, all by default. The final norm is exported where there is one.
    allow_restricted : bool
        Export a task that is labelled ``restricted`` too.
    disk : Disk, optional
        What it is written through.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    InvalidInput
        When the task is restricted, there is no such form, or `directory` is in the store or is no directory.
    NotFound
        When the entry does not keep one of the layers.
    AlreadyExists
        When something stands there already.
    Corrupt, Incomplete, Unreachable
        When the entry cannot be read as it was written; nothing is left behind.
    """
    disk, chosen = disk or Disk(), _form(form)
    check_not_restricted(store, entry.task, allow=allow_restricted)
    wanted = entry.layers if layers is None else tuple(sorted(set(layers)))
    for layer in wanted:
        entry.layer_index(layer)
    if not wanted:
        raise InvalidInput(f"{entry.label}: expected at least one layer to export, got none")
    target = export_path(store, entry, directory, form)
    disk.make_directories(target.parent)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        chosen.write(Excerpt(entry, wanted), temporary, disk)
        disk.sync_all([*temporary.rglob("*"), temporary])
        disk.rename(temporary, target)
    finally:
        disk.remove_tree(temporary)
    disk.sync(target.parent)
    return target


def export_path(store: Store, entry: Entry, directory: str | Path, form: str) -> Path:
    """Return where an entry is exported to.

    Raises
    ------
    AlreadyExists
        When something stands there.
    InvalidInput
        When `directory` is in the store or is no directory, or there is no such form.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InvalidInput(f"{directory}: expected a directory to export to, got a file; choose another path")
    if isinstance(store.storage, LocalStorage) and directory.resolve().is_relative_to(store.storage.root.resolve()):
        raise InvalidInput(f"{directory}: is inside the store {store.location}; export to a directory outside of it")
    target = directory / entry.model / f"{entry.task}{_form(form).suffix}"
    if target.exists() or target.is_symlink():
        raise AlreadyExists(f"{target}: is there already; remove it, or export to another directory")
    return target


def _form(name: str) -> Form:
    if name not in FORMS:
        raise InvalidInput(f"form {name!r}: expected one of {', '.join(FORMS)}")
    return FORMS[name]

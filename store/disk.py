"""The disk: every operation by which a store changes. Each is one method, so that a test can make any of them fail."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

Data = bytes | bytearray | memoryview


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name into an error of a call that takes no name, such as write, fsync, close and flock."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


class Disk:
    """A POSIX file system.

    The methods without a docstring of their own are single system calls; the others are made of them.
    """

    def make_directory(self, path: Path) -> None:  # noqa: D102
        path.mkdir(exist_ok=True)

    def write(self, path: Path, data: Data) -> None:
        """Make a file or replace its content. What a crash leaves of it is undefined before `sync`."""
        with naming(path), path.open("wb") as file:
            file.write(data)

    def append(self, path: Path, data: Data) -> None:
        """Add to the end of a file, which is made when it is missing."""
        with naming(path), path.open("ab") as file:
            file.write(data)

    def sync(self, path: Path) -> None:
        """Flush one file, or the names in one directory, to the disk."""
        handle = os.open(path, os.O_RDONLY)
        try:
            with naming(path):
                os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, source: Path, target: Path) -> None:  # noqa: D102
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:  # noqa: D102
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:  # noqa: D102
        path.unlink(missing_ok=True)

    def remove_directory(self, path: Path) -> None:  # noqa: D102
        path.rmdir()

    def set_mode(self, path: Path, mode: int) -> None:  # noqa: D102
        path.chmod(mode)

    def make_directories(self, path: Path) -> None:
        """Make a directory and those above it; each new name is flushed."""
        if path.is_dir():
            return
        self.make_directories(path.parent)
        self.make_directory(path)
        self.sync(path.parent)

    def write_atomically(self, path: Path, data: Data, *, replace: bool = True) -> None:
        """Write `data` so that `path` holds all of it or what it held before, also after a power loss.

        Raises
        ------
        FileExistsError
            When `replace` is false and the path exists, however late another process made it.
        """
        # Not the process id: two containers on one file system have the same ones.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            self.write(temporary, data)
            self.sync(temporary)
            if replace:
                self.rename(temporary, path)
            else:
                self.link(temporary, path)
        finally:
            if temporary.exists():
                self.unlink(temporary)
        self.sync(path.parent)

    def set_writable(self, path: Path, writable: bool) -> None:
        """Give its owner the permission to write a file or directory, or take it from everyone."""
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode | 0o200 if writable else mode & ~0o222
        if wanted != mode:  # only its owner may change it, and a store may have several
            self.set_mode(path, wanted)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all below it, whatever its permissions; nothing happens when it is missing."""
        if path.is_symlink() or not path.is_dir():
            self.unlink(path)
            return
        self.set_writable(path, True)
        for child in path.iterdir():
            self.remove_tree(child)
        self.remove_directory(path)

    def sync_all(self, paths: Iterable[Path]) -> None:
        """Flush many files and directories."""
        for path in paths:
            self.sync(path)

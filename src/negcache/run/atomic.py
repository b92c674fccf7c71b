"""Whole or not at all: a file or folder is written beside its place, then renamed into it."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from negcache.errors import InputError

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
"""Of errors; safetensors tells no number."""


@contextmanager
def atomic_write(
    path: Path, *, keep_first: bool = False, exclusive: bool = False
) -> Iterator[Path]:
    """Give a neighbouring path to write at; on success it takes the name, on failure it goes.

    A link that stands there is replaced, and what it leads to is left alone.

    Args:
        path: the file or folder to make; what stands there is replaced.
        keep_first: a folder that came to stand there meanwhile stays instead (another process,
            with the same work, was faster).
        exclusive: so does any, and FileExistsError is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part-{uuid4().hex[:8]}-{os.getpid()}")
    try:
        yield part
        if part.is_file():
            sync(part)
        if path.is_dir() and not (path.is_symlink() or keep_first or exclusive):
            remove(path)
        try:
            os.replace(part, path)
        except OSError as error:
            if exclusive and path.is_dir():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
            if not (keep_first and path.is_dir()):
                raise
    finally:
        remove(part)


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """A write that fails becomes a clear error: a full disk, or a place that may not be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in FULL:
            remedy = "make room on the disk, then go on; what was there is untouched"
        else:
            remedy = "choose another place (--out), or see to it that it can be written to"
        raise InputError(f"to write {what}", str(error), remedy) from error


def check_writable(folder: Path) -> None:
    """Make a folder, unless it is there, that files can be written to. Raises InputError."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Ask the disk to keep a file or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def forget_interrupted(path: Path) -> None:
    """Remove what processes that were killed left behind when they wrote this file or folder."""
    for part in path.parent.glob(f".{escape(path.name)}.part-*"):
        try:
            os.kill(int(part.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            remove(part)
        except PermissionError:
            pass  # alive, and another user's


def forget_all(folder: Path) -> None:
    """Remove all parts within a folder, which nobody but this process writes to."""
    for part in list(folder.rglob(".*.part-*")):
        remove(part)

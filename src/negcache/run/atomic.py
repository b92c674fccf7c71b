"""Whole or not at all: a file or folder is written beside its place, then renamed into it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_write(path: Path, *, keep_first: bool = False) -> Iterator[Path]:
    """Give a neighbouring path to write at; on success it takes the name, on failure it goes.

    Args:
        path: the file or folder to make; what stands there is replaced.
        keep_first: a folder that came to stand there meanwhile stays instead (another process,
            with the same work, was faster).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part-{uuid4().hex[:8]}-{os.getpid()}")
    try:
        yield part
        if path.is_dir() and not keep_first:
            remove(path)
        try:
            os.replace(part, path)
        except OSError:
            if not (keep_first and path.is_dir()):
                raise
    finally:
        remove(part)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def forget_interrupted(path: Path) -> None:
    """Remove what processes that were killed left behind when they wrote this file or folder."""
    for part in path.parent.glob(f".{escape(path.name)}.part-*"):
        try:
            os.kill(int(part.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            remove(part)
        except PermissionError:
            pass  # alive, and another user's

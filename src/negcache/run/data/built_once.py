"""A folder that is built once: by one process at a time, over as many calls as it takes."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from negcache.errors import InputError
from negcache.run.atomic import remove


@contextmanager
def built_once(folder: Path, last: str) -> Iterator[Path | None]:
    """Give the folder to build in, or None where it is built; it takes its name when it is done.

    What an interrupted call has written there is found by the next. Another process that wants the
    same folder waits. Where the input is refused (`InputError`) what was written goes.

    Args:
        folder: to be built.
        last: the file that is there once it is.
    """
    parts = folder.with_name(f".{folder.name}.parts")
    while not (folder / last).exists():
        parts.mkdir(parents=True, exist_ok=True)
        lock = os.open(parts, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is(parts, lock):  # who had it is done
                continue
            if (folder / last).exists():
                remove(parts)
                break
            try:
                yield parts
            except InputError:
                remove(parts)
                raise
            os.replace(parts, folder)
            return
        finally:
            os.close(lock)
    yield None


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False

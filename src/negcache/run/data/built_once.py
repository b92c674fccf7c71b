"""A folder that is built once: by one process at a time, over as many calls as it takes."""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from negcache.errors import InputError
from negcache.run.atomic import remove
from negcache.run.data.reading import clause


@contextmanager
def room_for(what: str, folder: Path) -> Iterator[None]:
    """While ``what`` is built in ``folder``: of its input an OSError would be an InputError.

    Raises:
        InputError: it cannot be written.
    """
    try:
        yield
    except OSError as failure:
        raise InputError(
            f"to write {what} into {folder.parent}",
            clause(failure),
            "make room there, or choose another folder ($NEGCACHE_CACHE); what is done is kept",
        ) from failure


@contextmanager
def built_once(
    folder: Path, damage: Callable[[], Sequence[str]], salvage: Callable[[Path], None]
) -> Iterator[Path | None]:
    """Give the folder to build in, or None where it is built; it takes its name when it is done.

    What an interrupted call has written there is found by the next. Another process that wants the
    same folder waits. Where the input is refused (`InputError`) what was written goes.

    Args:
        folder: to be built.
        damage: what of it is missing or damaged; nothing, once it is built.
        salvage: moves what is intact of a damaged folder to where it is built, and removes it.
    """
    parts = folder.with_name(f".{folder.name}.parts")
    while damage():
        parts.mkdir(parents=True, exist_ok=True)
        lock = os.open(parts, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is(parts, lock):  # who had it is done
                continue
            if not damage():
                remove(parts)
                break
            try:
                if folder.exists():
                    salvage(parts)
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

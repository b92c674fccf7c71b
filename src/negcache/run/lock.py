"""A run folder is worked on by one process at a time, and holds its files itself."""

import json
import os
import shlex
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from negcache.errors import InputError
from negcache.run.atomic import READ_ONLY, forget_all, writing

LOCK = "lock"
"""In a run folder: who worked on it last. The lock itself ends with the process, however it ends.
"""


class RunLock:
    """A run folder that no other process works on; what killed ones left half written is removed.

    This process may have it several times.

    Args:
        folder: of the run.
        reads_only: nothing is written there: a folder that may not be written to needs no lock.

    Raises:
        InputError: another process has it, a link leads out of it, or it may not be written to.
    """

    def __init__(self, folder: Path, *, reads_only: bool = False) -> None:
        check_own_files(folder)
        self.lock = FileLock(
            folder / LOCK,
            is_singleton=True,
            thread_local=False,
            preserve_lock_file=True,
            on_acquired=_tell_holder,
        )
        with writing(folder):
            try:
                self.lock.acquire(blocking=False)
                forget_all(folder)
            except Timeout as error:
                raise InputError(
                    "a run that no other process works on",
                    f"{folder}, held by {_holder(folder / LOCK)}",
                    "wait until that has ended, or stop it",
                ) from error
            except OSError as error:
                if not (reads_only and error.errno in READ_ONLY):
                    raise

    def release(self) -> None:
        """Others may have it."""
        self.lock.release()


def check_own_files(folder: Path) -> None:
    """Refuse a run folder with a link out of it: what it leads to would be written over."""
    home = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise InputError(
                "a run folder that holds its files itself",
                f"{path}, a link to {path.resolve()}",
                "put what it leads to in its place; the run as a whole may lie anywhere",
            )


def _tell_holder(handle: int) -> None:
    told = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"negcache {shlex.join(sys.argv[1:])}"[:200],
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(told).encode() + b"\n", 0)


def _holder(path: Path) -> str:
    """Who has the lock, as it told."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return "process {pid} on {host} since {since} ({command})".format(**told)
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has only begun"

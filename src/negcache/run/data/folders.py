"""Folders of files that belong together: written where nothing stands, read or refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from negcache.errors import InputError


def new_folder(out: Path | str) -> Path:
    """The absolute path of a folder that does not exist yet, or is empty; else an InputError."""
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("a new or empty folder", f"{out}, which holds files", "name another one")
    return out


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Turn what goes wrong while a file is read into an InputError that names it."""
    try:
        yield path
    except (OSError, EOFError, ValueError, BadZipFile) as failure:
        raise InputError(
            f"the readable file {path}", str(failure), "write its folder anew"
        ) from failure

"""What goes wrong while a file of a data set is read names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from negcache.errors import InputError


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Turn what goes wrong while a file is read into an InputError that names it."""
    try:
        yield path
    except (OSError, EOFError, ValueError, BadZipFile) as failure:
        raise InputError(
            f"the readable file {path}", str(failure), "write its folder anew"
        ) from failure

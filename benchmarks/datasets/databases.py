"""SQLite databases inside Debian packages."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.datasets.fetching import unpack_deb


@contextmanager
def database_in(deb: Path, member: str) -> Iterator[sqlite3.Connection]:
    """The database that a .deb carries, unpacked for as long as it is open.

    Args:
        deb: the package.
        member: path of the database inside it.
    """
    with TemporaryDirectory(prefix="negcache-database-") as folder:
        unpack_deb(deb, Path(folder))
        with closing(sqlite3.connect(Path(folder) / member)) as database:
            yield database

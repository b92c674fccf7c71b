"""Gene Ontology: a synonym of a term -> the definition of the term (70,266 pairs, 22,047 items).

Source: the Debian package r-bioc-go.db, release 3.16 of Bioconductor's GO.db.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from negcache.run.data.pairs import rows_of_pairs
from negcache.run.data.registry import Package, fetch_package, unpack
from negcache.run.data.tables import Tables, from_rows

PACKAGE = Package(
    name="r-bioc-go.db",
    version="3.16.0-1",
    sha256="6cf9c43b97212811ecb7ad0d7cde12e76f984ab7494a59c02455239a9dd3243d",
)
DATABASE = "usr/lib/R/site-library/GO.db/extdata/GO.sqlite"
PAIRS = """
    select go_term.go_id, go_synonym.synonym, go_term.definition
    from go_synonym join go_term using (_id)
    where go_synonym.like_go_id = 0 and trim(go_term.definition) <> ''
    order by go_term.go_id, go_synonym.synonym
"""


def go_tables(cache: Path, *, allow_other_version: bool = False) -> Tables:
    """Fetch the ontology once; a synonym that names two terms has two positives."""
    deb = fetch_package(PACKAGE, cache, allow_other_version=allow_other_version)
    return from_rows("go", (deb,), lambda: rows_of_pairs(_pairs(deb)))


def _pairs(deb: Path) -> list[tuple[str, str, str]]:
    with TemporaryDirectory(prefix="negcache-go-") as folder:
        unpack(deb, Path(folder))
        with closing(sqlite3.connect(Path(folder) / DATABASE)) as database:
            return database.execute(PAIRS).fetchall()

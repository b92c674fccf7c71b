"""Gene Ontology: a synonym of a term -> the definition of the term (70,266 pairs, 22,047 items).

Source: the Debian package r-bioc-go.db, release 3.16 of Bioconductor's GO.db.
"""

from pathlib import Path

from benchmarks.datasets.databases import database_in
from benchmarks.datasets.fetching import DEBIAN, Package, fetch
from benchmarks.datasets.pairs import rows_of_pairs
from negcache.run.data.downloads import cache_folder
from negcache.run.data.tables import Tables, from_rows
from negcache.run.data.write import write_tables

PACKAGE = Package(
    DEBIAN,
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


def write_go(
    out: Path, *, cache_dir: Path | None = None, allow_other_version: bool = False
) -> Path:
    """Gene Ontology, synonym -> definition, as a BEIR folder.

    Args:
        out: a folder that does not exist yet, or is empty.
        cache_dir: where the download is kept; None: the user's cache folder.
        allow_other_version: take what the registry offers, whatever its checksum.
    """
    cache = cache_folder(cache_dir)
    return write_tables(out, lambda: go_tables(cache, allow_other_version=allow_other_version))


def go_tables(cache: Path, *, allow_other_version: bool = False) -> Tables:
    """Fetch the ontology once; a synonym that names two terms has two positives."""
    deb = fetch(PACKAGE, cache, allow_other_version=allow_other_version)
    return from_rows("go", (deb,), lambda: rows_of_pairs(_pairs(deb)))


def _pairs(deb: Path) -> list[tuple[str, str, str]]:
    with database_in(deb, DATABASE) as database:
        return database.execute(PAIRS).fetchall()


def term_names(deb: Path) -> dict[str, str]:
    """The name of every term, obsolete ones aside, by its id."""
    with database_in(deb, DATABASE) as database:
        return dict(database.execute("select go_id, term from go_term"))

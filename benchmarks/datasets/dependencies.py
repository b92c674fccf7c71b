"""Debian packages that nothing asks for -> the packages they depend on (Debian 12 main, amd64).

18,094 queries, 20,203 items, 79,665 pairs. Source: the Packages index of Debian 12.15; the text
belongs to each package's authors. A text is the name and the short description of a package. What
``Pre-Depends``, ``Depends``, ``Recommends`` or ``Suggests`` name, alternatives too, is a positive,
4.4 a query; virtual packages, which have no stanza, are left out.

**Who asks**: packages that are no item themselves, as users of a recommender are no items. Of the
56,878 that depend on something, 38,784 (68 %) are. One tower of both sides, with unit norm, has the
query's own text before whatever it needs, so MRR@10 could not rise above .66, and the hardest
negative of such a query, for all who look for those, would be one from which nothing is learnt.

**Split**: a hash of the query's text, 80 / 10 / 10: what does a new package need? A recommender
would hold out some edges of every package; towers over text need none of them. Of the 1,750 test
queries 29 % have a package of the same source in train, and 16 % of the pairs an item that train
never asks for. 56 % share a part of their name (of four letters or more, between ``-``, ``.`` and
``+``) with an item that answers them, and so do the two packages of 31 % of the pairs.

The ten commonest items of train, for every query alike, have MRR@10 .40 on test and R@10 .23; the
hundred commonest R@100 .40. (libc6 answers 30 % of the queries.)
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.datasets.fetching import PACKAGES, Package, fetch
from benchmarks.datasets.pairs import rows_of_pairs
from negcache.run.data.downloads import cache_folder
from negcache.run.data.tables import Tables, from_rows
from negcache.run.data.write import write_tables

INDEX = Package(
    PACKAGES,
    name="bookworm",
    version="Packages",
    sha256="515e692f2c4121c6fcec444ef100cc18f79a991910615f3a88c8b7becfc94d2f",
)
FIELD = re.compile(r"^([A-Z][\w-]*):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
RELATIONS = ("Pre-Depends", "Depends", "Recommends", "Suggests")
NAME = re.compile(r"\s*([a-z0-9][a-z0-9+.-]+)")  # before an architecture and a version


class Stanza(NamedTuple):
    """What the index says of a package: its text, and the names that it asks for."""

    text: str
    needs: list[str]


def write_debian_deps(
    out: Path, *, cache_dir: Path | None = None, allow_other_version: bool = False
) -> Path:
    """Debian packages -> the packages they depend on, as a BEIR folder.

    Args:
        out: a folder that does not exist yet, or is empty.
        cache_dir: where the download is kept; None: the user's cache folder.
        allow_other_version: take what the registry offers, whatever its checksum.
    """
    cache = cache_folder(cache_dir)
    return write_tables(out, lambda: deps_tables(cache, allow_other_version=allow_other_version))


def deps_tables(cache: Path, *, allow_other_version: bool = False) -> Tables:
    """Fetch the index once; an item's id is the name of its package."""
    path = fetch(INDEX, cache, allow_other_version=allow_other_version)
    return from_rows("debian-deps", (path,), lambda: rows_of_pairs(_pairs(path)))


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    return pairs_of(stanzas(path.read_text("utf-8")))


def stanzas(index: str) -> dict[str, Stanza]:
    """Packages by name; of several versions of one the first counts."""
    found: dict[str, Stanza] = {}
    for paragraph in index.split("\n\n"):
        fields = dict(FIELD.findall(paragraph))
        if {"Package", "Description"} <= fields.keys():
            name, short = fields["Package"], fields["Description"].partition("\n")[0]
            found.setdefault(name, Stanza(f"{name}: {short}", needs_of(fields)))
    return found


def needs_of(fields: Mapping[str, str]) -> list[str]:
    """Every name in the relations of a stanza once, in their order, without itself."""
    told = ",".join(fields.get(relation, "") for relation in RELATIONS)
    names = (found[1] for part in re.split(r"[,|]", told) if (found := NAME.match(part)))
    return [name for name in dict.fromkeys(names) if name != fields["Package"]]


def pairs_of(packages: Mapping[str, Stanza]) -> Iterator[tuple[str, str, str]]:
    """(item id, query text, item text) of the packages that no other one asks for."""
    asked_for = {need for stanza in packages.values() for need in stanza.needs}
    for name, stanza in packages.items():
        if name not in asked_for:
            for need in stanza.needs:
                if need in packages:
                    yield need, stanza.text, packages[need].text

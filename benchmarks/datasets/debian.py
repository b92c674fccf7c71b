"""Debian package descriptions: the short one -> the long one (English, Debian 12 main).

Source: the Translation-en index of the registry; the text belongs to each package's authors.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.datasets.fetching import DESCRIPTIONS, Package, fetch
from benchmarks.datasets.pairs import rows_of_pairs
from negcache.run.data.downloads import cache_folder
from negcache.run.data.tables import Tables, digest, from_rows
from negcache.run.data.write import write_tables

PACKAGE = Package(
    DESCRIPTIONS,
    name="bookworm",
    version="Translation-en",
    sha256="62f59c3cdca9786e4f7adf9002f9f5729a684adcb4667e58e448dec9b5a46c7f",
)
FEWEST_WORDS = 10
STANZA = re.compile(r"Package: (\S+)\n.*?Description-en: (.*?)\n(.*)", re.DOTALL)
BLANK_LINE = re.compile(r"\n \.(?=\n|$)")  # Debian writes an empty line as a lone dot


def write_debian(
    out: Path, *, cache_dir: Path | None = None, allow_other_version: bool = False
) -> Path:
    """Debian package descriptions, short -> long, as a BEIR folder.

    Args:
        out: a folder that does not exist yet, or is empty.
        cache_dir: where the download is kept; None: the user's cache folder.
        allow_other_version: take what the registry offers, whatever its checksum.
    """
    cache = cache_folder(cache_dir)
    return write_tables(out, lambda: debian_tables(cache, allow_other_version=allow_other_version))


def debian_tables(cache: Path, *, allow_other_version: bool = False) -> Tables:
    """Fetch the descriptions once; a short one that heads several long ones has them all."""
    path = fetch(PACKAGE, cache, allow_other_version=allow_other_version)
    return from_rows("debian", (path,), lambda: rows_of_pairs(_pairs(path.read_text("utf-8"))))


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    for stanza in text.split("\n\n"):
        if found := STANZA.match(stanza):
            package, short, long = found.groups()
            words = BLANK_LINE.sub(" ", long).split()
            if len(words) >= FEWEST_WORDS:
                text = " ".join(words)
                yield f"{package}-{digest(text)[:8]}", short, text  # a package may have versions

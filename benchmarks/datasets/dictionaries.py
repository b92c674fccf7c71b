"""Articles of dictionaries in the form of dictd: a text, and an index of places in it."""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from tempfile import TemporaryDirectory

from benchmarks.datasets.fetching import DEBIAN, Package, fetch, unpack_deb

DIGITS = {digit: i for i, digit in enumerate(ascii_uppercase + ascii_lowercase + digits + "+/")}
ABOUT = "00-"  # how headwords begin that speak of the dictionary itself


@dataclass(frozen=True)
class Dictionary:
    """A Debian package with a dictionary, and what of its text is marking, not language."""

    name: str
    package: Package
    marks: re.Pattern[str]
    encoding: str = "utf-8"


GCIDE = Dictionary(
    "gcide",
    Package(
        DEBIAN,
        name="dict-gcide",
        version="0.48.5+nmu2",
        sha256="7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
    ),
    re.compile(r"\[[^][]*\b(?:Webster|WordNet|PJC)\b[^][]*\]|\\[^\\\n]*\\(?:\s*\([^()]*\))?|[{}]"),
    encoding="cp1252",
)
"""Without the source of each paragraph ([1913 Webster]), pronunciation, braces of references."""

FOLDOC = Dictionary(
    "foldoc",
    Package(
        DEBIAN,
        name="dict-foldoc",
        version="20230119-1",
        sha256="745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
    ),
    re.compile(r"\(\d{4}-\d\d-\d\d\)\s*\Z|[{}]"),
)
"""Without the date that ends an article, and the braces of references."""


def articles(dictionary: Dictionary, cache: Path) -> Iterator[tuple[str, str]]:
    """Fetch a dictionary once; gives (place in the text, text) of each article, without marks."""
    deb = fetch(dictionary.package, cache)
    with TemporaryDirectory(prefix="negcache-dictd-") as folder:
        unpack_deb(deb, Path(folder))
        home = Path(folder) / "usr" / "share" / "dictd"
        text = gzip.decompress((home / f"{dictionary.name}.dict.dz").read_bytes())
        index = (home / f"{dictionary.name}.index").read_text("utf-8")
    for first, length in places(index):
        article = text[first : first + length].decode(dictionary.encoding)
        yield str(first), dictionary.marks.sub("", article)


def places(index: str) -> list[tuple[int, int]]:
    """Distinct (offset, length) of a dictd index, in rising order: several words share an article.

    A line is ``headword <tab> offset <tab> length``, in digits of base 64 (dictd(8)).
    """
    lines = (line.rsplit("\t", 2) for line in index.splitlines() if not line.startswith(ABOUT))
    return sorted({(number(first), number(length)) for _, first, length in lines})


def number(word: str) -> int:
    """A number in the base 64 of dictd: A is 0, / is 63."""
    return reduce(lambda total, digit: 64 * total + DIGITS[digit], word, 0)

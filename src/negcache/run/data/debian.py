"""Debian package descriptions: the short one -> the long one (English, Debian 12 main).

Source: the Translation-en index of the registry; the text belongs to each package's authors.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from negcache.run.data.aside import written_aside
from negcache.run.data.pairs import rows_of_pairs
from negcache.run.data.registry import check_sha256, fetch_translation, sha256_of
from negcache.run.data.tables import Tables, digest, from_rows

SUITE = "bookworm"
SHA256 = "62f59c3cdca9786e4f7adf9002f9f5729a684adcb4667e58e448dec9b5a46c7f"
FEWEST_WORDS = 10
STANZA = re.compile(r"Package: (\S+)\n.*?Description-en: (.*?)\n(.*)", re.DOTALL)
BLANK_LINE = re.compile(r"\n \.(?=\n|$)")  # Debian writes an empty line as a lone dot


def debian_tables(cache: Path, *, allow_other_version: bool = False) -> Tables:
    """Fetch the descriptions once; a short one that heads several long ones has them all."""
    path = cache / "downloads" / f"debian-{SUITE}-{SHA256[:16]}.txt"
    if not path.exists() or sha256_of(path) != SHA256:
        text = fetch_translation(SUITE)
        got = hashlib.sha256(text).hexdigest()
        if allow_other_version:
            path = path.with_stem(f"debian-{SUITE}-{got[:16]}")
        else:
            check_sha256(f"Translation-en of Debian {SUITE}", SHA256, got)
        with written_aside(path) as aside:
            aside.write_bytes(text)
    return from_rows("debian", (path,), lambda: rows_of_pairs(_pairs(path.read_text("utf-8"))))


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    for stanza in text.split("\n\n"):
        if found := STANZA.match(stanza):
            package, short, long = found.groups()
            words = BLANK_LINE.sub(" ", long).split()
            if len(words) >= FEWEST_WORDS:
                text = " ".join(words)
                yield f"{package}-{digest(text)[:8]}", short, text  # a package may have versions

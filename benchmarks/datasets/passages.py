"""A million passages: stretches of running text -> the stretch that comes next in the same text."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet

from benchmarks.datasets.corpora import PARTS, Document
from negcache.run.atomic import atomic_write
from negcache.run.data.downloads import cache_folder
from negcache.run.data.tables import JUDGED, QUERIES
from negcache.run.data.write import new_folder

WORDS, FEWEST = 13, 4
SPLITS = ("train", "dev", "test")


class Passage(NamedTuple):
    """A stretch of a text, the split of the text, and whether the last one came just before it."""

    text: str
    split: str
    follows: bool


def write_passages(out: Path, *, words: int = WORDS, cache_dir: Path | None = None) -> Path:
    """Write the text mix in stretches of 13 words as a BEIR folder in Parquet.

    The texts are those of `next_word.write_mix` (descriptions of packages, dictionaries,
    definitions, summaries, Brown): each is cut into stretches of 13 words without overlap; a last
    one of fewer than 4 words, and one whose text stood before, are left out. A query is the text of
    a passage, its one answer the passage that comes next in the same text. Ids are numbers: those
    of passages their row, that of a query the row of the passage whose text it is; the answer is
    one more. What a text is, train, dev or test, its queries are; all passages are in the corpus.

    Nothing is held of the whole but a hash of each text; of the mix, one of its parts at a time.

    Args:
        out: a folder that does not exist yet, or is empty.
        words: of a passage.
        cache_dir: where downloads are kept; None: the user's cache folder.
    """
    out = new_folder(out)
    cache = cache_folder(cache_dir)
    documents = (document for part in PARTS.values() for document in part(cache))
    with atomic_write(out) as folder:
        (folder / "qrels").mkdir(parents=True)
        _write(folder, passages(documents, words))
    return out


def passages(documents: Iterable[Document], words: int) -> Iterator[Passage]:
    """Stretches of texts in their order, no text twice."""
    seen = set[bytes]()
    for document in documents:
        every = " ".join(document.sentences).split()
        follows = False
        for first in range(0, len(every), words):
            some = every[first : first + words]
            text = " ".join(some)
            mark = hashlib.blake2b(text.encode(), digest_size=8).digest()
            new = len(some) >= FEWEST and mark not in seen
            if new:
                seen.add(mark)
                yield Passage(text, document.split, follows)
            follows = new


def _write(folder: Path, found: Iterable[Passage]) -> None:
    """Row by row, into files that are written a block at a time."""
    corpus, queries = (
        _Rows(folder / "corpus.parquet", QUERIES),
        _Rows(folder / "queries.parquet", QUERIES),
    )
    judged = {split: _Rows(folder / "qrels" / f"{split}.parquet", JUDGED) for split in SPLITS}
    before = ""
    for row, passage in enumerate(found):
        corpus.add(str(row), passage.text)
        if passage.follows:
            queries.add(str(row - 1), before)
            judged[passage.split].add(str(row - 1), str(row), 1)
        before = passage.text
    for rows in (corpus, queries, *judged.values()):
        rows.close()


class _Rows:
    """A Parquet file that rows are added to; holds one row group."""

    def __init__(self, path: Path, schema: pa.Schema, block: int = 8192) -> None:
        self.writer = parquet.ParquetWriter(path, schema, compression="zstd")
        self.schema, self.block, self.rows = schema, block, list[tuple]()

    def add(self, *row: str | int) -> None:
        self.rows.append(row)
        if len(self.rows) == self.block:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self.rows, strict=True))
        self.writer.write_table(pa.table([list(c) for c in columns], schema=self.schema))
        self.rows.clear()

    def close(self) -> None:
        if self.rows:
            self._flush()
        self.writer.close()

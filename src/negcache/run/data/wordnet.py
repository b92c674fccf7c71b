"""WordNet 3.0, shipped with negcache: 117,659 entries, and two tasks over them.

Made by scripts/build_wordnet.py; see assets/WORDNET_LICENSE.txt for Princeton's licence.
"""

from pathlib import Path
from typing import NamedTuple

from pyarrow import parquet

from negcache.run.data.lemma_in_example import lemma_in_example
from negcache.run.data.tables import Rows, Tables, from_rows, stable_split

ASSET = Path(__file__).parent / "assets" / "wordnet30.parquet"
PARTS = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}


class Entry(NamedTuple):
    """One entry: the words that share a meaning, and the meaning.

    ``id`` is the part of speech (n, v, a, r) and the entry's offset in WordNet's own file.
    """

    id: str
    pos: str
    lemmas: list[str]
    definition: str
    examples: list[str]


def entries() -> list[Entry]:
    """All entries, by part of speech and then by offset."""
    columns = parquet.read_table(ASSET).to_pydict()
    return [Entry(*row) for row in zip(*(columns[name] for name in Entry._fields), strict=True)]


def sense_rows() -> Rows:
    """``wordnet-sense``: a word in a sentence -> the entry it has there.

    Query "word : example", item "lemmas : definition, part of speech".
    """
    items, queries, judged = [], [], _no_judgements()
    for entry in entries():
        lemmas = ", ".join(entry.lemmas)
        items.append((entry.id, f"{lemmas} : {entry.definition}, {PARTS[entry.pos]}"))
        for place, example in enumerate(entry.examples):
            query = f"{entry.id}-{place}"
            word = lemma_in_example(entry.lemmas, example).lemma
            queries.append((query, f"{word} : {example}"))
            judged[stable_split(entry.id)].append((query, entry.id))
    return Rows(items, queries, judged)


def reverse_rows() -> Rows:
    """``wordnet-reverse``: a definition -> the words for it. Item "lemmas", and no more."""
    items, queries, judged = [], [], _no_judgements()
    for entry in entries():
        query = f"q-{entry.id}"
        items.append((entry.id, ", ".join(entry.lemmas)))
        queries.append((query, entry.definition))
        judged[stable_split(entry.id)].append((query, entry.id))
    return Rows(items, queries, judged)


BUILT_IN = {"wordnet-sense": sense_rows, "wordnet-reverse": reverse_rows}


def wordnet_tables(name: str) -> Tables:
    """A built-in task by name; reads nothing yet."""
    return from_rows(name, (ASSET,), BUILT_IN[name])


def _no_judgements() -> dict[str, list[tuple[str, str]]]:
    return {"train": [], "dev": [], "test": []}

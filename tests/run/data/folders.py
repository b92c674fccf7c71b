"""Small BEIR folders for the tests of this folder."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "purr at night"},
    {"_id": "d2", "title": "", "text": "dogs bark at the moon"},
    {"_id": "d3", "title": "Birds", "text": "sing at dawn"},
]
QUERIES = [
    {"_id": "q1", "text": "what purrs"},
    {"_id": "q2", "text": "what barks"},
    {"_id": "q3", "text": "what sings"},
]
QRELS = {
    "train": [("q1", "d1", 1), ("q2", "d2", 2), ("q2", "d3", 1)],
    "test": [("q3", "d3", 1)],
}


def write_folder(
    folder: Path,
    corpus: list[dict] = CORPUS,
    queries: list[dict] = QUERIES,
    qrels: dict[str, list[tuple]] = QRELS,
    *,
    zipped: bool = False,
) -> Path:
    """A BEIR folder of JSON lines."""
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path = folder / (f"{name}.jsonl" + (".gz" if zipped else ""))
        path.write_bytes(gzip.compress(text) if zipped else text)
    for split, pairs in qrels.items():
        rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, pair)) for pair in pairs)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def write_parquet_folder(folder: Path) -> Path:
    """The same folder as Parquet."""
    (folder / "qrels").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(CORPUS), folder / "corpus.parquet")
    parquet.write_table(pa.Table.from_pylist(QUERIES), folder / "queries.parquet")
    names = ["query-id", "corpus-id", "score"]
    for split, pairs in QRELS.items():
        columns = [list(column) for column in zip(*pairs, strict=True)]
        parquet.write_table(pa.table(columns, names), folder / "qrels" / f"{split}.parquet")
    return folder

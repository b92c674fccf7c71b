"""A small task of real texts: words of WordNet and what they mean."""

import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from negcache.run.data.wordnet import entries

DEV, TEST = 8, 9  # last digit of an entry's number, as everywhere: 80, 10 and 10 %


def write_slice(folder: Path, count: int) -> Path:
    """A BEIR folder of consecutive nouns, query "words" -> item "definition", and mined.jsonl.

    Neighbours in WordNet's file are close in meaning: the two next are the mined negatives.
    """
    chosen = [entry for entry in entries() if entry.pos == "n"][1000 : 1000 + count]
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": entry.id, "text": entry.definition} for entry in chosen]
    queries = [{"_id": f"q-{entry.id}", "text": ", ".join(entry.lemmas)} for entry in chosen]
    mined = [
        {
            "query-id": f"q-{entry.id}",
            "positive-id": entry.id,
            "negative-ids": [chosen[(place + step) % count].id for step in (1, 2)],
        }
        for place, entry in enumerate(chosen)
    ]
    for name, rows in (("corpus", corpus), ("queries", queries), ("mined", mined)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    for split, digits in (("train", range(8)), ("dev", (DEV,)), ("test", (TEST,))):
        pairs = [f"q-{e.id}\t{e.id}\t1" for i, e in enumerate(chosen) if i % 10 in digits]
        lines = "\n".join(["query-id\tcorpus-id\tscore", *pairs])
        (folder / "qrels" / f"{split}.tsv").write_text(lines + "\n")
    return folder


def write_streams(task: Path, folder: Path, *, shards: int = 4, group: int = 20) -> Path:
    """The training pairs and the items of a BEIR folder as Parquet files: ``pairs``, ``items``."""
    corpus, queries = (
        {row["_id"]: row["text"] for row in map(json.loads, (task / name).read_text().splitlines())}
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    lines = (task / "qrels" / "train.tsv").read_text().splitlines()[1:]
    judged = [line.split("\t")[:2] for line in lines]
    tables = {
        "pairs": pa.table(
            {
                "query": [queries[query] for query, _ in judged],
                "item": [item for _, item in judged],
                "text": [corpus[item] for _, item in judged],
            }
        ),
        "items": pa.table({"_id": list(corpus), "text": list(corpus.values())}),
    }
    for name, table in tables.items():
        (folder / name).mkdir(parents=True)
        ends = [len(table) * shard // shards for shard in range(shards + 1)]
        for shard, (start, end) in enumerate(pairwise(ends)):
            path = folder / name / f"part-{shard}.parquet"
            pq.write_table(
                table.slice(start, end - start),
                path,
                row_group_size=group,
                write_page_checksum=True,
            )
    return folder

"""A small task of real texts: words of WordNet and what they mean."""

import json
from pathlib import Path

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

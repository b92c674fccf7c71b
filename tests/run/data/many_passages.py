"""Folders of generated passages, and a process that prepares one and may be killed on its way.

python many_passages.py FOLDER WHERE COUNT: prepares with small blocks, and is killed at the
COUNT-th call of WHERE, a function of ``texts``, ``tokens`` or ``prepare``.
python many_passages.py FOLDER: prepares, and prints by how many bytes its own memory grew.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from negcache.run.data import id_index, open_task, prepare, texts, tokenizer, tokens
from negcache.run.data.tables import JUDGED, QUERIES


def write_passages(folder: Path, count: int, words: int = 12, id_length: int = 8) -> Path:
    """So many passages of words out of 2,000, and a query for every second one; block by block."""
    (folder / "qrels").mkdir(parents=True)
    noise = np.random.default_rng(0)
    vocabulary = np.array([f"word{number:x}" for number in range(2000)])
    with (
        parquet.ParquetWriter(folder / "corpus.parquet", QUERIES) as corpus,
        parquet.ParquetWriter(folder / "queries.parquet", QUERIES) as queries,
        parquet.ParquetWriter(folder / "qrels" / "train.parquet", JUDGED) as judged,
    ):
        for first in range(0, count, 1000):
            ids = [f"{row:0{id_length}}" for row in range(first, min(first + 1000, count))]
            found = [" ".join(row) for row in noise.choice(vocabulary, (len(ids), words))]
            asked = ids[::2], found[::2]
            corpus.write_table(pa.table([ids, found], schema=QUERIES))
            queries.write_table(pa.table(list(asked), schema=QUERIES))
            pairs = [asked[0], asked[0], [1] * len(asked[0])]
            judged.write_table(pa.table(pairs, schema=JUDGED))
    return folder


SMALL = {(texts, "BATCH_ROWS"): 64, (id_index, "BATCH_ROWS"): 64, (texts, "PART_BLOCKS"): 2}
SMALL |= {(tokens, "CHECKPOINT"): 128, (tokenizer, "BATCH_ROWS"): 64, (tokenizer, "AT_ONCE"): 64}
"""Constants that make a small folder one of many blocks and parts."""


def kill_at(where: str, count: int) -> None:
    """This process kills itself instead of the ``count``-th call of a function."""
    home = next(one for one in (texts, tokens, prepare) if hasattr(one, where))
    real, calls = getattr(home, where), []

    def counted(*arguments):
        calls.append(arguments)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(home, where, counted)


def own_memory() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def growth(folder: Path) -> int:
    """By how many bytes the memory of this process grows at most while a folder is prepared."""
    seen, done, start = [0], threading.Event(), own_memory()

    def watch():
        while not done.is_set():
            seen[0] = max(seen[0], own_memory() - start)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    open_task(folder)
    done.set()
    watcher.join()
    return seen[0]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(growth(Path(sys.argv[1])))
    else:
        for (module, name), value in SMALL.items():
            setattr(module, name, value)
        kill_at(sys.argv[2], int(sys.argv[3]))
        open_task(sys.argv[1])

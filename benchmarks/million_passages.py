"""A million passages on two cores: does a cache on disk train better than the batch alone?

    python -m benchmarks.million_passages [--seconds 60] [--seeds 1]

1,015,239 stretches of 13 words of the text mix (package descriptions, dictionaries, definitions,
summaries, Brown; see `datasets.passages`). A query is the text of a passage, its one answer the
passage that comes next in the same text; a hash of the text decides train, dev or test. These are
natural pairs, not relevance judgements. A query's own passage is no negative of it, and is left
out of its ranking.

Static tower for both sides (token vectors of 64 averaged, a linear map), from scratch, batch 128,
Adam, equal CPU seconds on one thread; the first fill of a cache is on the clock. In-batch negatives
with the log-q correction; uniform ones beside the batch's positives; and, beside these too, draws
from a `DenseCache` in a file, of which a step scores a few thousand rows. Training rows are not
written back, which a file takes one by one: a policy of ten lines looks at all rows again in their
order, a stretch each step. The learning rate is the best of three on dev, for each method, with
seed 0. R@100 of 3,000 test queries over all passages, by exact rank.

Preparing and each run are processes of their own, and tell their peak resident memory (VmHWM).
Resumable per (method, rate, seed, seconds).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import negcache as nc
from benchmarks.datasets.passages import write_passages
from benchmarks.record import append_rows, bars, conclude, hardware, read_rows
from benchmarks.retrieval import BATCH, DATA
from negcache.encoder import ItemEncoder
from negcache.interfaces import Sampler
from negcache.ops.shards import Shard
from negcache.run.data import Task, open_task
from negcache.towers import StaticTower

NAME = "million_passages"
FOLDER, ROWS = DATA / "passages", DATA / "million_passages.rows"
DIM, SCORE, CHUNK = 64, 0.05, 4096
RATES, QUERIES = (1e-3, 3e-3, 1e-2), {"dev": 2000, "test": 3000}

Build = Callable[[Task, torch.Tensor], Sampler]


def _uniform(count: int) -> Build:
    return lambda task, log_popularity: nc.SharedDraws(
        nc.Uniform(task.corpus, count // BATCH), log_popularity=log_popularity
    )


class InOrder:
    """A refresh policy: so many rows a step, one after the other, and no others are written."""

    takes_training_rows = False

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def plan(self, written: torch.Tensor, step: int, shard: Shard) -> torch.Tensor:
        first = step * self.rows % shard.size
        return torch.arange(first, min(first + self.rows, shard.size))


def _on_disk(each: int, scored: int) -> Build:
    """So many draws a query from a few thousand rows of the file, shared by the batch."""

    def build(task: Task, log_popularity: torch.Tensor) -> Sampler:
        size = len(task.corpus)
        ROWS.unlink(missing_ok=True)  # of an earlier run
        cache = nc.DenseCache(size, DIM, path=ROWS, refresh=InOrder(256))
        drawn = nc.CachedSoftmax(cache, each, scored=scored / size)
        return nc.SharedDraws(drawn, log_popularity=log_popularity)

    return build


METHODS: dict[str, Build] = {
    "in_batch": lambda task, log_popularity: nc.InBatch(log_popularity),
    "uniform_1024": _uniform(1024),
    "disk_512_of_2048": _on_disk(4, 2048),
}
OURS = "disk_512_of_2048"


def prepare() -> dict[str, Any]:
    """Tokenize the passages into mapped files, once."""
    start = time.process_time()
    task = open_task(FOLDER, max_tokens=64)
    taken = round(time.process_time() - start, 1)
    return {"passages": len(task.corpus), "cpu_seconds": taken, "peak_rss_gb": peak_gb()}


def peak_gb() -> float:
    """The most memory that this process has had resident, mapped files included, in 10^9 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(1024 * kilobytes / 1e9, 3)


def train(method: str, rate: float, seed: int, seconds: float) -> dict[str, Any]:
    """One run: nothing of the corpus but mapped files and a few numbers a passage."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task = open_task(FOLDER, max_tokens=64)
    pairs = task.learnable("train")
    shares = torch.bincount(pairs.items, minlength=len(task.corpus)) / len(pairs)
    tower = StaticTower(task.vocab_size, DIM)
    loss_fn = nc.SoftmaxLoss(
        tower, task.corpus, METHODS[method](task, shares.log()), nc.DotScore(SCORE), seed=seed
    )
    optimizer = torch.optim.Adam(tower.parameters(), lr=rate, fused=True)
    steps, taken, encoded, start = 0, 0.0, [0, 0], time.process_time()
    for rows, items in _batches(task, seed):
        own = (items - 1)[:, None]  # the passage whose text the query is
        loss = loss_fn(tower(task.queries[rows]), items, exclude=own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_fn.step()
        report, steps = loss_fn.report(), steps + 1
        encoded = [encoded[0] + report.encoded_grad, encoded[1] + report.encoded_nograd]
        taken = time.process_time() - start
        if taken >= seconds:
            break
    row = {"method": method, "rate": rate, "seed": seed, "seconds": seconds}
    row |= {"cpu_seconds": round(taken, 1), "steps": steps}
    row |= {"encoded_grad": encoded[0], "encoded_nograd": encoded[1]}
    return row | measured(task, tower) | {"peak_rss_gb": peak_gb()} | hardware()


def _batches(task: Task, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    pairs, order = task.learnable("train"), torch.Generator().manual_seed(seed)
    while True:
        shuffled = torch.randperm(len(pairs), generator=order)
        for chosen in shuffled[: len(pairs) // BATCH * BATCH].split(BATCH):
            yield pairs.queries[chosen], pairs.items[chosen]


@torch.no_grad()
def measured(task: Task, tower: StaticTower) -> dict[str, float]:
    """R@100, R@10 and MRR@10 of dev and test: one pass over all passages, a chunk at a time."""
    chosen = [_some(task, split, count) for split, count in QUERIES.items()]
    rows, items = (torch.cat(part) for part in zip(*chosen, strict=True))
    score = nc.DotScore(SCORE)
    queries, right = score.embed(tower(task.queries[rows])), score.embed(tower(task.corpus[items]))
    target = (queries * right).sum(1, keepdim=True)
    better = torch.zeros(len(rows), dtype=torch.int64)
    every = torch.arange(len(task.corpus))
    for ids, found in ItemEncoder(tower, task.corpus, score).encode_all(every, CHUNK):
        products = queries @ found.T
        for aside in (items, items - 1):  # the answer itself, and the query's own passage
            here = ((aside >= ids[0]) & (aside <= ids[-1])).nonzero().squeeze(1)
            products[here, aside[here] - ids[0]] = -torch.inf
        better += (products > target).sum(1)
    found = {}
    for split, ranks in zip(QUERIES, better.split(list(QUERIES.values())), strict=True):
        first = split.replace("test", "") + "_" if split != "test" else ""
        found[f"{first}r100"] = round((ranks < 100).float().mean().item(), 5)
        found[f"{first}r10"] = round((ranks < 10).float().mean().item(), 5)
        reciprocal = (1 / (ranks + 1.0)).where(ranks < 10, 0.0)
        found[f"{first}mrr10"] = round(reciprocal.mean().item(), 5)
    return found


def _some(task: Task, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed random choice of the pairs of a split; a query has one answer."""
    judged = task.splits[split]
    chosen = torch.randperm(len(judged), generator=torch.Generator().manual_seed(11))[:count]
    return judged.queries[chosen], judged.items[chosen]


def in_a_process(*arguments: object) -> dict[str, Any]:
    """What this module says last when it is run with these arguments."""
    command = [sys.executable, "-m", f"benchmarks.{NAME}", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(method: str, rate: float, seed: int, seconds: float) -> dict[str, Any]:
    """One run, in a process of its own; a finished one is read back."""
    asked = (method, rate, seed, seconds)
    for row in read_rows(NAME):
        if asked == (
            row["method"], float(row["rate"]), int(row["seed"]), float(row["seconds"]),
        ):  # fmt: skip
            return row
    row = in_a_process("--run", *asked)
    append_rows(NAME, [row])
    print({name: row[name] for name in ("method", "rate", "seed", "steps", "dev_r100", "r100")})
    return row


def preparing() -> dict[str, Any]:
    """Writing and preparing the passages, once; what it took is kept."""
    if not FOLDER.exists():
        write_passages(FOLDER)
    kept = read_rows(f"{NAME}_preparing")
    if kept and not in_a_process("--prepare")["cpu_seconds"] > 10:
        return kept[-1]
    row = in_a_process("--prepare") | hardware()
    append_rows(f"{NAME}_preparing", [row])
    return row


def answer(seconds: float, seeds: int) -> dict[str, Any]:
    """Every method at its rate, means over seeds; ours against in-batch."""
    prepared = preparing()
    chosen = {m: finals(m, seconds, seeds) for m in METHODS}
    rows = [row for rows in chosen.values() for row in rows]
    bars(NAME, rows, group="seconds", label="method", value="r100")
    peak = max(float(row["peak_rss_gb"]) for row in read_rows(NAME))
    means = {m: mean(rows, "r100") for m, rows in chosen.items()}
    return {
        "peak_rss_gb": max(peak, float(prepared["peak_rss_gb"])),
        "recall_over_in_batch": round(means[OURS] / means["in_batch"], 4),
        "passages": int(prepared["passages"]),
        "preparing_peak_rss_gb": float(prepared["peak_rss_gb"]),
        "training_peak_rss_gb": peak,
        "seconds": seconds,
        "seeds": seeds,
        "uniform_over_in_batch": round(means["uniform_1024"] / means["in_batch"], 4),
        "rates": {m: float(rows[0]["rate"]) for m, rows in chosen.items()},
        "steps": {m: int(rows[0]["steps"]) for m, rows in chosen.items()},
        "r100": {m: round(value, 4) for m, value in means.items()},
        "dev_r100": {m: round(mean(rows, "dev_r100"), 4) for m, rows in chosen.items()},
    }


def mean(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(float(row[name]) for row in rows)


def finals(method: str, seconds: float, seeds: int) -> list[dict[str, Any]]:
    """Runs at the learning rate that is best on dev after so long, for the first seed."""
    tried = [run(method, rate, 0, seconds) for rate in RATES]
    best = float(max(tried, key=lambda row: float(row["dev_r100"]))["rate"])
    return [run(method, best, seed, seconds) for seed in range(seeds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of the processor, of a run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--prepare", action="store_true", help="do that alone")
    parser.add_argument("--run", nargs=4, metavar=("METHOD", "RATE", "SEED", "SECONDS"))
    options = parser.parse_args()
    if options.prepare:
        print(json.dumps(prepare()))
    elif options.run:
        method, rate, seed, seconds = options.run
        print(json.dumps(train(method, float(rate), int(seed), float(seconds))))
    else:
        conclude(NAME, answer(options.seconds, options.seeds))


if __name__ == "__main__":
    main()

"""Does a stream that is never held whole train as well as a corpus in memory?

    python -m benchmarks.streaming [--task go] [--steps 2000] [--seeds 3]

The task is written as two streams of 64 Parquet files each, pairs and items without queries, and
read in windows. A cache of a quarter of the items against one of all of them in memory, static
towers, batch 128, as many steps and draws; the second stream brings 64 items a step, 64 rows are
refreshed (in memory: 128 refreshed). Every weight of rows and both evictions; and, as a row of its
own, the settings of the public code: one draw per query, no weights, rows of zeros that are
negatives, the query's own positive not masked, nothing but positives in the cache. MRR@10 over all
items, 2,000 held-out queries. Resumable per (task, method, seed).
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional as F

import negcache as nc
from benchmarks.record import append_rows, bars, conclude, hardware, read_rows
from benchmarks.retrieval import BATCH, DATA, Problem, Run, fetched, some, static
from negcache.exclusion import Exclusion
from negcache.interfaces import Sampler
from negcache.messages import Request
from negcache.run.data import Task
from negcache.run.data.streams import ITEMS, Stream, StreamBatch, ToBags
from negcache.run.evaluation import Side, evaluate
from negcache.towers import Bags

NAME = "streaming"
SHARDS, RATE, QUERIES, MORE = 64, 3e-3, 2000, 64
BEST = ("dedup", "popularity", "uniform")


class PublicCache(nc.StreamingCache):
    """Slots that nothing came to are negatives of zeros, encoded from no token."""

    @property
    def valid(self) -> torch.Tensor:
        return torch.ones_like(self.table.valid)

    def ids(self, slots: torch.Tensor) -> torch.Tensor:
        held = super().ids(slots)
        return held.where(held >= 0, 2**62 + slots)

    def __getitem__(self, ids: torch.Tensor) -> Any:
        came = ids < 2**62
        found, lengths = super().__getitem__(ids[came]), torch.zeros_like(ids)
        assert isinstance(found, Bags)
        lengths[came] = F.pad(found.starts, (0, 1), value=len(found.tokens)).diff()
        return Bags(found.tokens, lengths.cumsum(0) - lengths)


class Unmasked:
    """A sampler that does not know which items are positives."""

    has_density = True

    def __init__(self, inner: nc.CachedSoftmax) -> None:
        self.inner, self.store, self.num_negatives = inner, inner.store, inner.num_negatives

    def propose(self, request: Request, generator: torch.Generator) -> Any:
        none = request.positives.new_empty(len(request.queries), 0)
        nobody = Exclusion.from_pairs(none[0], none[0], len(request.queries))
        return self.inner.propose(Request(request.queries, request.score, none, nobody), generator)


def build(method: str, size: int, dim: int, num_items: int) -> tuple[nc.StreamingCache, Sampler]:
    """The cache and the sampler of a method."""
    if method == "public":
        public = PublicCache(size, dim, refresh=0.0, eviction="least_recently_refreshed")
        return public, Unmasked(nc.CachedSoftmax(public, 1))
    least = method == "least_recently_refreshed"
    cache = nc.StreamingCache(
        size,
        dim,
        refresh=MORE / size,
        eviction=method if least else "fifo",
        row_weight="none" if least else method,
        num_items=num_items if method == "uniform" else None,
    )
    return cache, nc.SharedDraws(nc.CachedSoftmax(cache, 1))


METHODS = ("dedup", "popularity", "uniform", "none", "least_recently_refreshed", "public")


def write_streams(task: Task, folder: Path) -> Path:
    """The training pairs and the items of a task, as 64 files each."""
    if folder.exists():
        return folder
    pairs = task.learnable("train")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(5))
    texts = task.corpus_text.texts(range(len(task.corpus)))
    tables = {
        "pairs": {
            "query": task.query_text.texts(pairs.queries[order]),
            "item": pairs.items[order].tolist(),
            "text": [texts[int(item)] for item in pairs.items[order]],
        },
        "items": {"_id": list(range(len(texts))), "text": texts},
    }
    for name, columns in tables.items():
        (folder / name).mkdir(parents=True)
        table = pa.table(columns)
        ends = [len(table) * shard // SHARDS for shard in range(SHARDS + 1)]
        for shard in range(SHARDS):
            part = table.slice(ends[shard], ends[shard + 1] - ends[shard])
            pq.write_table(part, folder / name / f"{shard:02}.parquet", row_group_size=256)
    return folder


class StreamRun:
    """A loop over two streams, as a user would write it."""

    def __init__(self, problem: Problem, folder: Path, method: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.problem, self.tower, self.method = problem, problem.tower(), method
        num_items = len(problem.items)
        self.cache, sampler = build(method, num_items // 4, problem.dim, num_items)
        self.loss = nc.SoftmaxLoss(self.tower, self.cache, sampler, nc.DotScore(0.05), seed=seed)
        self.optimizer = torch.optim.Adam(self.tower.parameters(), lr=RATE, fused=True)
        self.loss.step_with(self.optimizer)
        self.pairs = Stream.open(str(folder / "pairs"), batch_size=BATCH, seed=seed)
        self.items = Stream.open(str(folder / "items"), ITEMS, batch_size=MORE, seed=seed)
        self.bags = ToBags(problem.task.tokenizer)

    def train(self, steps: int) -> None:
        for step in range(steps):
            batch = self.pairs.batch(step)
            self._receive(batch)
            if self.method != "public":
                self._receive(self.items.batch(step))
            loss = self.loss(self.tower(self.bags(batch.queries or [])), batch.item_ids)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def _receive(self, batch: StreamBatch) -> None:
        self.cache.receive(batch.item_ids, self.bags(batch.texts or []))


def measured(problem: Problem, method: str, seed: int, steps: int) -> dict[str, Any]:
    """One run; a finished one is read back."""
    task = problem.task
    for row in read_rows(NAME):
        if (row["task"], row["method"], int(row["seed"]), int(row["steps"])) == (
            task.name, method, seed, steps,
        ):  # fmt: skip
            return row
    start = time.process_time()
    if method == "in_memory":
        run = Run(problem, in_memory, RATE, seed)
        list(run.train(steps=steps))
        grad, nograd = run.grad, run.nograd
    else:
        run = StreamRun(problem, write_streams(task, DATA / f"{task.name}-streams"), method, seed)
        run.train(steps)
        report = run.loss.report()
        grad, nograd = report.encoded_grad, report.encoded_nograd
    row: dict[str, Any] = {"task": task.name, "method": method, "seed": seed, "steps": steps}
    row |= {"encoded_grad": grad, "encoded_nograd": nograd}
    row |= {"cpu_seconds": round(time.process_time() - start, 1)}
    row |= {f"dev_{k}": v for k, v in tested(problem, run.tower, "dev").items()}
    row |= tested(problem, run.tower, "test") | hardware()
    append_rows(NAME, [row])
    print({name: row[name] for name in ("task", "method", "seed", "dev_mrr10", "mrr10")})
    return row


def in_memory(store: Any, task: Task) -> Any:
    return nc.SharedDraws(nc.CachedSoftmax(store, 1)), nc.log_q_corrected


def tested(problem: Problem, tower: torch.nn.Module, split: str) -> dict[str, float]:
    task = problem.task
    sides = (
        Side(tower, problem.queries, task.query_text),
        Side(tower, problem.items, task.corpus_text),
    )
    means = evaluate(*sides, nc.DotScore(0.05), some(task.splits[split], QUERIES)).means
    return {"mrr10": round(means["mrr10"], 5), "r1": round(means["r1"], 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="go")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem, rows = static(fetched(options.task)), []
    for seed in range(options.seeds):
        for method in ("in_memory", *METHODS):
            rows.append(measured(problem, method, seed, options.steps))
    means = {
        method: statistics.mean(float(r["mrr10"]) for r in rows if r["method"] == method)
        for method in ("in_memory", *METHODS)
    }
    dev = {
        method: statistics.mean(float(r["dev_mrr10"]) for r in rows if r["method"] == method)
        for method in BEST
    }
    chosen = max(dev, key=lambda method: dev[method])
    bars(NAME, rows, group="task", label="method", value="mrr10")
    answer = {"task": options.task, "steps": options.steps, "chosen_on_dev": chosen}
    answer |= {"quality_ratio": round(means[chosen] / means["in_memory"], 4)}
    conclude(NAME, answer | {f"{name}_mrr10": round(value, 4) for name, value in means.items()})


if __name__ == "__main__":
    main()

"""Do shared draws from a negative cache train a better retriever than the usual negatives?

    python -m benchmarks.first_comparison [--methods cached_shared uniform] [--steps 2000]

Task: Gene Ontology, synonym -> definition, 22,047 items (natural pairing, no relevance judgements),
fetched from Debian's registry. One static tower for both sides, scale 20, batch 128, 128 shared
draws a step, 128 rows refreshed a step. ``in_batch`` has the log-q correction, ``in_batch_plain``
none (what most libraries call in-batch negatives). For every method the learning rate is chosen of
three by dev MRR@10 with seed 0; then three seeds. ``seconds`` are CPU seconds of training on one
thread, evaluation left out, so that a busy machine does not distort them. Resumable per (method,
learning rate, seed): finished runs are read back from the CSV files.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import negcache as nc
from benchmarks.datasets.go import write_go
from benchmarks.record import append_rows, conclude, hardware, read_rows
from negcache.estimators import softmax_loss
from negcache.interfaces import Estimator, Sampler
from negcache.run.data import Task, open_task
from negcache.run.evaluation import Side, encode_all, evaluate
from negcache.towers import StaticTower

FOLDER = Path(__file__).parent.parent / ".data" / "go"
DIM, WIDTH, BATCH, REFRESHED = 64, 128, 128, 128
RATES, SEEDS, EVERY = (1e-3, 3e-3, 1e-2), (0, 1, 2), 500
NAME, TUNING = "first_comparison", "first_comparison_tuning"

Build = Callable[[nc.DenseCache, Task], tuple[Sampler, Estimator]]
METHODS: dict[str, Build] = {
    "in_batch": lambda store, task: (nc.InBatch(log_popularity(task)), nc.log_q_corrected),
    "in_batch_plain": lambda store, task: (nc.InBatch(), nc.log_q_corrected),
    "uniform": lambda store, task: (nc.SharedDraws(nc.Uniform(store, 1)), nc.log_q_corrected),
    "uniform_2x": lambda store, task: (nc.SharedDraws(nc.Uniform(store, 2)), nc.log_q_corrected),
    "cached_per_query": lambda store, task: (nc.CachedSoftmax(store, 1), nc.cached_partition),
    "cached_shared": lambda store, task: (
        nc.SharedDraws(nc.CachedSoftmax(store, 1)),
        nc.log_q_corrected,
    ),
    "full": lambda store, task: (nc.FullSoftmax(store), nc.log_q_corrected),
}


def log_popularity(task: Task) -> torch.Tensor:
    """log share of every item among the training positives; items without any get one count."""
    items = task.splits["train"].positives().items
    counts = torch.bincount(items, minlength=len(task.corpus)).clamp_min(1).float()
    return (counts / counts.sum()).log()


class Run:
    """One method, learning rate and seed: a plain loop, as a user would write it."""

    def __init__(self, task: Task, method: str, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.task, self.score = task, nc.DotScore(0.05)
        self.tower = StaticTower(task.vocab_size, DIM, WIDTH)
        store = nc.DenseCache(len(task.corpus), DIM, refresh=REFRESHED / len(task.corpus))
        sampler, estimator = METHODS[method](store, task)
        self.loss = nc.SoftmaxLoss(
            self.tower, task.corpus, sampler, self.score, estimator=estimator,
            known_positives=task.known_positives("train"), seed=seed,
        )  # fmt: skip
        self.optimizer = torch.optim.Adam(self.tower.parameters(), lr=rate)
        self.order = torch.Generator().manual_seed(seed)

    def train(self, steps: int):
        """Train, yielding figures every ``EVERY`` steps and at the end."""
        step, seconds, grad, nograd = 0, 0.0, 0, 0
        while step < steps:
            for batch in self.task.batches("train", BATCH, self.order):
                start = time.process_time()
                loss = self.loss(self.tower(batch.queries), batch.positives, batch.query_ids)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.loss.step()
                seconds, step = seconds + time.process_time() - start, step + 1
                report = self.loss.report()
                grad, nograd = grad + report.encoded_grad, nograd + report.encoded_nograd
                if step % EVERY == 0 or step == steps:
                    yield {"step": step, "seconds": round(seconds, 3), "encoded_grad": grad,
                           "encoded_nograd": nograd}  # fmt: skip
                if step == steps:
                    return

    def test(self, split: str) -> dict[str, float]:
        """MRR@10 and R@1 of exact search over all items, for a split's queries."""
        task = self.task
        sides = (
            Side(self.tower, task.queries, task.query_text),
            Side(self.tower, task.corpus, task.corpus_text),
        )
        means = evaluate(*sides, self.score, task.splits[split]).means
        return {"mrr10": round(means["mrr10"], 5), "r1": round(means["r1"], 5)}

    @torch.no_grad()
    def train_ce(self) -> dict[str, float]:
        """Exact full-softmax cross-entropy (nats) of 2,048 fixed training pairs."""
        pairs = self.task.splits["train"].positives()
        pick = torch.randperm(len(pairs.items), generator=torch.Generator().manual_seed(7))[:2048]
        rows, positives = pairs.queries[pick], pairs.items[pick]
        queries = self.score.embed(self.tower(self.task.queries[rows]))
        items = encode_all(self.tower, self.task.corpus, self.score)
        exclude = self.task.known_positives("train").exclusion(rows, positives)
        logits = self.score(queries, items)
        target = logits[torch.arange(len(pick)), positives]
        logits[exclude.rows, exclude.ids] = -torch.inf
        return {"train_ce": round(float(softmax_loss(target, logits).mean()), 5)}


def tuned_rate(task: Task, method: str, steps: int) -> float:
    """The learning rate with the best dev MRR@10 at the end, seed 0."""
    best: dict[float, float] = {}
    for rate in RATES:
        done = [r for r in read_rows(TUNING) if (r["method"], float(r["lr"])) == (method, rate)]
        if not done:
            run = Run(task, method, rate, seed=0)
            *_, last = run.train(steps)
            append_rows(TUNING, [{"method": method, "lr": rate, **last, **run.test("dev")}])
            done = [r for r in read_rows(TUNING) if (r["method"], float(r["lr"])) == (method, rate)]
        best[rate] = float(done[-1]["mrr10"])
        print(method, "lr", rate, "dev mrr10", best[rate], flush=True)
    return max(best, key=lambda rate: best[rate])


def compare(task: Task, method: str, seed: int, steps: int) -> None:
    """One seed at the tuned rate; a finished seed is not run again."""
    rate = tuned_rate(task, method, steps)
    finished = [r for r in read_rows(NAME) if int(r["step"]) == steps]
    if any((r["method"], int(r["seed"])) == (method, seed) for r in finished):
        return
    run, rows = Run(task, method, rate, seed), []
    for figures in run.train(steps):
        rows.append({"method": method, "seed": seed, **figures})
        rows[-1] |= run.test("test") | run.train_ce() | {"lr": rate} | hardware()
    append_rows(NAME, rows)
    print({k: rows[-1][k] for k in list(rows[-1])[:8]}, flush=True)


def verdict(steps: int) -> dict[str, float]:
    """The goals' ratios, from means over seeds."""
    rows = [{**r, "step": int(r["step"])} for r in read_rows(NAME)]

    def mean(method: str, column: str, step: int = steps) -> float:
        picked = [r for r in rows if (r["method"], r["step"]) == (method, step)]
        return statistics.mean(float(r[column]) for r in picked)

    def mrr_after(method: str, seconds: float) -> float:
        """MRR@10 on the method's mean curve after so many seconds, linear between points."""
        curve_steps = sorted({r["step"] for r in rows if r["method"] == method})
        points = [(mean(method, "seconds", s), mean(method, "mrr10", s)) for s in curve_steps]
        earlier = [p for p in points if p[0] <= seconds][-1]
        later = next((p for p in points if p[0] > seconds), earlier)
        span = later[0] - earlier[0]
        share = (seconds - earlier[0]) / span if span else 0.0
        return earlier[1] + share * (later[1] - earlier[1])

    shared, budget = (
        "cached_shared",
        min(mean("cached_shared", "seconds"), mean("uniform_2x", "seconds")),
    )
    return {
        "over_uniform_equal_steps": mean(shared, "mrr10") / mean("uniform", "mrr10"),
        "over_uniform_2x_equal_seconds": mrr_after(shared, budget)
        / mrr_after("uniform_2x", budget),
        "over_in_batch": mean(shared, "mrr10") / mean("in_batch", "mrr10"),
        "over_in_batch_plain": mean(shared, "mrr10") / mean("in_batch_plain", "mrr10"),
        "train_ce_over_per_query": mean(shared, "train_ce") / mean("cached_per_query", "train_ce"),
        "of_full": mean(shared, "mrr10") / mean("full", "mrr10"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not FOLDER.exists():
        write_go(FOLDER)
    task = open_task(FOLDER, max_tokens=64)
    for seed in SEEDS:  # methods in turn within a seed: the machine's drift meets all alike
        for method in options.methods:
            compare(task, method, seed, options.steps)
    finished = [r["method"] for r in read_rows(NAME) if int(r["step"]) == options.steps]
    if all(finished.count(method) >= len(SEEDS) for method in METHODS):
        conclude(NAME, {name: round(value, 4) for name, value in verdict(options.steps).items()})


if __name__ == "__main__":
    main()

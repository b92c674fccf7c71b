"""What does a head of 50,000 words cost a step of a language model, sampled against full?

    python -m benchmarks.language_model_head [--seeds 2] [--minutes 30]
    python -m benchmarks.language_model_head --tune     # the rate, on dev

The model of examples/language_model.py: a causal transformer, D = 128, two layers, T = 64, batch
16, so 1,024 rows a step; AdamW (fused) at RATE, the rate rising for a tenth of the steps and
falling to 0 (OneCycleLR), norm clipped at 1, no dropout. Brown, lower-cased: 44,019 words stand in
its training part, the rest of the 50,000 classes in no text. All methods begin with equal weights,
the bias at the log of each word's share in the training part (``zero_bias``: at 0), and see equal
batches. RATES are compared for ``full`` and ``joined_4`` on dev, after TUNED steps.

``full`` is ``linear_cross_entropy`` of torch over ``nn.Linear`` in chunks of 256 rows, faster than
``cross_entropy`` over all logits at once (``full_at_once``, timed alone). The others are
``SoftmaxHead``; ``_m`` is draws per row, shared ones m x 1,024 in all, and the draws are dense, so
AdamW moves all rows. ``joined``: the batch's own words join the draws. ``in_batch``: they alone.
``_eps``: AdamW with eps 1e-5 in place of 1e-8, so that rows of tiny gradients move little.

Steps are timed in turn, CPU seconds of one thread, after WARM_UP each: batch, forward, backward,
clipping, optimizer, schedule. Perplexity is exp of the exact loss over every eighth stretch of the
test text (15,872 words), after STEPS steps. Resumable per (method, seed).
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import negcache as nc
from benchmarks.datasets.next_word import open_next_word, write_brown
from benchmarks.record import append_rows, bars, conclude, hardware, read_rows
from benchmarks.retrieval import kept
from examples.language_model import LanguageModel, perplexity, stretches, train
from negcache.interfaces import Sampler
from negcache.shapes import Float, Int, Tensor

NAME, WORDS, DIM = "language_model_head", 50_000, 128
STEPS, RATE, RATES, TUNED = 300, 3e-3, (1e-3, 3e-3, 6e-3), 80
WARM_UP, TIMED, EVERY = 3, 10, 8
CLOSE, FAST = 1.02, 1 / 3
"""What is asked: perplexity and step time as multiples of those of ``full``."""

CHUNKS = nn.LinearCrossEntropyOptions(batch_chunk_size=256, chunking_method=None)

Build = Callable[[nc.LiveTable, int, Int[Tensor, "N"]], Sampler]


def _unigram(table: nc.LiveTable, m: int, counts: Tensor, power: float = 1.0) -> Sampler:
    return nc.SharedDraws(nc.Popularity(counts + 1, m, power=power))


def _joined(table: nc.LiveTable, m: int, counts: Tensor) -> Sampler:
    share = (counts / counts.sum()).log()
    return nc.SharedDraws(nc.Popularity(counts + 1, m, power=1.0), log_popularity=share)


def _log_uniform(table: nc.LiveTable, m: int, counts: Tensor) -> Sampler:
    return nc.SharedDraws(nc.samplers.log_uniform(table, m))


def _uniform(table: nc.LiveTable, m: int, counts: Tensor) -> Sampler:
    return nc.SharedDraws(nc.Uniform(table, m))


def _mixture(table: nc.LiveTable, m: int, counts: Tensor) -> Sampler:
    unigram = nc.Popularity(counts + 1, m - 1, power=1.0)
    return nc.SharedDraws(nc.Mixture(unigram, nc.Uniform(table, 1)))


def _in_batch(table: nc.LiveTable, m: int, counts: Tensor) -> Sampler:
    return nc.InBatch((counts / counts.sum()).log())


def _softmax(table: nc.LiveTable, m: int, counts: Tensor) -> Sampler:
    return nc.SharedDraws(nc.CachedSoftmax(table, m))


METHODS: dict[str, tuple[Build | None, int, int]] = {
    "full": (None, WORDS, 2),
    "joined_4": (_joined, 4, 2),
    "unigram_4": (_unigram, 4, 2),
    "joined_1": (_joined, 1, 2),
    "unigram_075_8": (partial(_unigram, power=0.75), 8, 1),
    "mixture_4": (_mixture, 4, 1),
    "log_uniform_4": (_log_uniform, 4, 1),
    "uniform_4": (_uniform, 4, 1),
    "in_batch": (_in_batch, 1, 1),
    "zero_bias": (_joined, 4, 1),
    "full_eps": (None, WORDS, 1),
    "joined_eps": (_joined, 4, 1),
    "softmax_shared_1": (_softmax, 1, 1),
    "default_4": (lambda table, m, counts: nc.CachedSoftmax(table, m), 4, 1),
}
"""Sampler, draws per row, and seeds at most."""

ADAM: dict[str, dict[str, float]] = {"full_eps": {"eps": 1e-5}, "joined_eps": {"eps": 1e-5}}
"""Settings of AdamW where they are not its own: what the comparison owes to them."""


class Full(nn.Linear):
    """All words: the exact loss of [B, T, D], in chunks of rows while it trains."""

    def forward(self, hidden: Float[Tensor, "B T D"], target: Int[Tensor, "B T"]) -> Tensor:  # type: ignore[override]
        rows, wanted = hidden.flatten(0, 1), target.flatten()
        options = CHUNKS if self.training else None
        return F.linear_cross_entropy(
            rows, self.weight, wanted, linear_bias=self.bias, options=options
        )


class FullAtOnce(Full):
    """``cross_entropy`` over the logits of all rows."""

    def forward(self, hidden: Float[Tensor, "B T D"], target: Int[Tensor, "B T"]) -> Tensor:  # type: ignore[override]
        logits = F.linear(hidden, self.weight, self.bias)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())


class Text:
    """Brown as tensors of word ids."""

    def __init__(self) -> None:
        data = open_next_word(kept("brown-50k", write_brown, vocabulary=WORDS))
        self.train, self.dev, self.test = (
            torch.from_numpy(part.astype(np.int64)) for part in (data.train, data.dev, data.test)
        )
        self.counts = torch.bincount(self.train, minlength=WORDS)


def model_of(method: str, text: Text, seed: int) -> LanguageModel:
    """The model with a head; the same weights for every method of a seed."""
    torch.manual_seed(seed)
    head: nn.Module = (FullAtOnce if method == "full_at_once" else Full)(DIM, WORDS)
    share = (text.counts + 1) / (text.counts + 1).sum()
    with torch.no_grad():
        head.bias.copy_(torch.zeros(WORDS) if method == "zero_bias" else share.log())
    build, m, _ = METHODS.get(method, (None, WORDS, 0))
    if build is not None:
        sampled = nc.SoftmaxHead(
            WORDS, DIM, lambda table, m: build(table, m, text.counts), m, seed=seed
        )
        with torch.no_grad():
            sampled.table.weight.copy_(torch.cat([head.weight, head.bias[:, None]], dim=1))
        head = sampled
    torch.manual_seed(seed)
    return LanguageModel(head, DIM)


def time_steps(text: Text) -> None:
    """Steps of all methods in turn, on equal batches."""
    methods = [name for name in METHODS if name not in ADAM] + ["full_at_once"]
    if {row["method"] for row in read_rows(f"{NAME}_steps")} >= set(methods):
        return
    count = WARM_UP + TIMED
    runs = {name: train(model_of(name, text, 0), text.train, count, rate=RATE) for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(count):
        for name, run in runs.items():
            start = time.process_time()
            next(run)
            seconds[name].append(time.process_time() - start)
    rows = []
    for name in methods:
        taken = seconds[name][WARM_UP:]
        row = {"method": name, "steps": TIMED, "mean_s": f"{statistics.mean(taken):.4f}"}
        rows.append(row | {"median_s": f"{statistics.median(taken):.4f}"} | hardware())
        print(*list(rows[-1].values())[:4], flush=True)
    append_rows(f"{NAME}_steps", rows)


def measured(text: Text, key: dict[str, Any], steps: int, table: str = NAME) -> None:
    """One run, its perplexity on dev while tuning, on test otherwise; a finished one is left.

    Args:
        key: method, seed and rate.
    """
    if any(all(row[k] == str(v) for k, v in key.items()) for row in read_rows(table)):
        return
    model, start = model_of(key["method"], text, key["seed"]), time.process_time()
    settings: dict[str, Any] = {"rate": key["rate"], "seed": key["seed"]}
    settings |= ADAM.get(key["method"], {})
    losses = list(train(model, text.train, steps, **settings))
    row = key | {"steps": steps, "seconds": round(time.process_time() - start, 1)}
    rows = stretches(text.test if table == NAME else text.dev, model.length)[::EVERY]
    row |= {"loss": round(statistics.mean(losses[-50:]), 4)}
    row |= {"perplexity": round(perplexity(model, rows), 2)}
    append_rows(table, [row | hardware()])
    print(*row.values(), flush=True)


def runs(seeds: int) -> list[tuple[str, int]]:
    """(method, seed); methods of several seeds first."""
    every = [(name, seed) for name, (_, _, most) in METHODS.items() for seed in range(most)]
    every = [(name, seed) for name, seed in every if seed < seeds]
    return sorted(every, key=lambda run: (METHODS[run[0]][2] == 1, run[1]))


def answer() -> dict[str, Any]:
    """Perplexity and step time of each method as multiples of those of ``full``."""
    steps = {row["method"]: float(row["median_s"]) for row in read_rows(f"{NAME}_steps")}
    rows = read_rows(NAME)
    by_seed = {(row["method"], row["seed"]): float(row["perplexity"]) for row in rows}
    ratios: dict[str, list[float]] = {}
    for (method, seed), value in by_seed.items():
        if ("full", seed) in by_seed:
            ratios.setdefault(method, []).append(value / by_seed["full", seed])
    figures = {name: round(statistics.mean(found), 4) for name, found in ratios.items()}
    times = {name: round(taken / steps["full"], 4) for name, taken in steps.items()}
    shown = [{"": "", "method": n, "perplexity ratio": figures[n]} for n in figures]
    bars(NAME, shown, group="", label="method", value="perplexity ratio")
    return {
        "perplexity_ratio": figures,
        "step_ratio": times,
        "seeds": {name: len(found) for name, found in ratios.items()},
        "full_perplexity": {s: value for (name, s), value in by_seed.items() if name == "full"},
        "full_step_s": steps["full"],
        "reached": [n for n in figures if figures[n] <= CLOSE and times.get(n, 1) <= FAST],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="rates of RATES on dev, and no more")
    parser.add_argument("--seeds", type=int, default=2, help="at most so many")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text, end = Text(), time.monotonic() + 60 * options.minutes
    if options.tune:
        for rate in RATES:
            for method in ("full", "joined_4"):
                key = {"method": method, "seed": 0, "rate": rate}
                measured(text, key, TUNED, f"{NAME}_tuning")
        return
    time_steps(text)
    for method, seed in runs(options.seeds):
        if time.monotonic() < end:
            measured(text, {"method": method, "seed": seed, "rate": RATE}, STEPS)
    conclude(NAME, answer())


if __name__ == "__main__":
    main()

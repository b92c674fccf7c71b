"""How far from the full softmax do sampled ones end, by sampler and number of samples m?

    python -m benchmarks.sampler_bias [--tune] [--seeds 3] [--minutes 45]

The figure of Blanc & Rendle (ICML 2018), on Brown instead of PTB: 10,000 words, perplexity of the
full softmax over held-out words. The vectors of the five words before (64-d) -> 128 ReLU -> 64 ->
``SoftmaxHead`` with a bias. One pass over a random 204,800 training positions, the same for all
methods of a seed: 800 steps of 256, Adagrad at 0.05 (sparse, so rows without a gradient stay where
they are; chosen on 20,000 dev words among RATES, see sampler_bias_tuning.csv). Perplexity is that
of 40,000 test words. ``full`` is cross_entropy over the head's own table.

Draws are per query, the target excluded, as published. Alone ``uniform`` with m = 2,048 and 4,096
shares m draws over the batch (``SharedDraws``, m / 256 each): so many rows for each query are too
much to gather. ``quadratic`` is 100 s^2 + 1; ``_absolute`` is the model p ~ exp(|s|), whose
yardstick is ``full_absolute``. ``rff`` has unit-norm vectors without a bias at a temperature of
0.09 (tau 11), nu 4, 1,024 frequencies; its yardstick is ``full_normalized``. Resumable per
(sampler, m, seed).
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import negcache as nc
from benchmarks.datasets.next_word import NextWord, open_next_word, write_brown
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import kept
from negcache.interfaces import Sampler
from negcache.shapes import Float, Int, Tensor

NAME, TUNING = "sampler_bias", "sampler_bias_tuning"
WORDS, CONTEXT, DIM, HIDDEN = 10_000, 5, 64, 128
BATCH, STEPS, RATE, RATES = 256, 800, 0.05, (0.02, 0.05, 0.1)
DEV, TEST = 20_000, 40_000
FEW, MANY, ALL = (8, 32, 128, 512), (2048, 4096), (WORDS,)
CLOSE = 1.02
"""Perplexities up to so many times that of the full softmax count as equal."""

Build = Callable[[nc.LiveTable, int, Int[Tensor, "N"]], Sampler]


@dataclass(frozen=True)
class Method:
    """A model and what it is trained by.

    Args:
        build: (table, m, counts) -> sampler; None: cross_entropy over all words.
        ms: numbers of samples.
        seeds: how many.
        head: options of ``SoftmaxHead``.
    """

    build: Build | None
    ms: tuple[int, ...]
    seeds: int = 1
    head: dict[str, Any] = field(default_factory=dict)


def _uniform(table: nc.LiveTable, m: int, counts: Tensor) -> Sampler:
    if m in MANY:
        return nc.SharedDraws(nc.Uniform(table, m // BATCH))
    return nc.Uniform(table, m)


def _quadratic(table: nc.LiveTable, m: int, counts: Tensor) -> Sampler:
    return nc.quadratic(table, m, alpha=100.0)


ABSOLUTE = {"absolute": True}
UNIT = {"normalize": True, "bias": False, "temperature": 0.09}
METHODS = {
    "full": Method(None, ALL, 3),
    "uniform": Method(_uniform, FEW + MANY, 3),
    "quadratic": Method(_quadratic, FEW, 3),
    "full_absolute": Method(None, ALL, 3, ABSOLUTE),
    "quadratic_absolute": Method(_quadratic, FEW, 3, ABSOLUTE),
    "exact": Method(lambda table, m, counts: nc.CachedSoftmax(table, m), FEW, 3),
    "unigram": Method(lambda table, m, counts: nc.Popularity(counts + 1, m, power=1), FEW),
    "full_normalized": Method(None, ALL, 1, UNIT),
    "rff": Method(lambda table, m, counts: nc.rf_softmax(table, m), FEW, 1, UNIT),
}
SLOW = (("exact", 128), ("exact", 512))  # CachedSoftmax scores a block anew for each draw
YARDSTICK = dict.fromkeys(METHODS, "full") | {
    "quadratic_absolute": "full_absolute",
    "rff": "full_normalized",
}


class NextWordModel(nn.Module):
    """The words before -> a hidden vector -> a softmax head.

    Args:
        method: its options and its sampler.
        m: draws per query.
        counts: of each word in the training part.
        seed: of weights and draws.
    """

    def __init__(self, method: Method, m: int, counts: Int[Tensor, "N"], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        build = method.build or (lambda table, m, counts: nc.FullSoftmax(table))
        self.words = nn.Embedding(WORDS, DIM, sparse=True)
        nn.init.normal_(self.words.weight, std=0.1)
        self.body = nn.Sequential(
            nn.Linear(CONTEXT * DIM, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIM)
        )
        self.head = nc.SoftmaxHead(
            WORDS,
            DIM,
            lambda table, m: build(table, m, counts),
            m,
            sparse=True,
            seed=seed,
            **method.head,
        )

    def forward(self, words: Int[Tensor, "B c"]) -> Float[Tensor, "B D"]:
        return self.body(self.words(words).flatten(1))


def whole_loss(
    head: nc.SoftmaxHead, hidden: Float[Tensor, "B D"], target: Int[Tensor, "B"]
) -> Float[Tensor, ""]:
    """cross_entropy over the head's table, with its gradient."""
    score, rows = head.score, hidden
    if head.bias is not None:
        rows = F.pad(rows, (0, 1), value=1.0)
    return F.cross_entropy(score(score.embed(rows), score.embed(head.table.weight)), target)


def examples(
    tokens: Int[Tensor, "T"], places: Int[Tensor, "n"], batch: int
) -> Iterator[tuple[Int[Tensor, "B c"], Int[Tensor, "B"]]]:
    """The words before each place, and the word there."""
    for at in places.split(batch):
        yield tokens[at[:, None] + torch.arange(-CONTEXT, 0)], tokens[at]


def places(tokens: Int[Tensor, "T"], count: int, seed: int) -> Int[Tensor, "n"]:
    """So many random places that have the words before them."""
    order = torch.randperm(len(tokens) - CONTEXT, generator=torch.Generator().manual_seed(seed))
    return order[:count] + CONTEXT


def train(model: NextWordModel, whole: bool, tokens: Tensor, rate: float, seed: int) -> None:
    optimizer = torch.optim.Adagrad(model.parameters(), lr=rate)
    for words, target in examples(tokens, places(tokens, STEPS * BATCH, seed), BATCH):
        hidden = model(words)
        loss = whole_loss(model.head, hidden, target) if whole else model.head(hidden, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def perplexity(model: NextWordModel, tokens: Int[Tensor, "T"], count: int) -> float:
    """exp of the exact loss at fixed random places."""
    model.eval()
    losses = [
        float(model.head(model(words), target))
        for words, target in examples(tokens, places(tokens, count, 7), 1000)
    ]
    model.train()
    return math.exp(statistics.mean(losses))


def measured(data: NextWord, table: str, key: dict[str, Any]) -> dict[str, Any]:
    """One run; a finished one is read back.

    Args:
        key: sampler, m, seed and rate.
    """
    for row in read_rows(table):
        if all(row[name] == str(value) for name, value in key.items()):
            return row
    method, seed = METHODS[key["sampler"]], key["seed"]
    parts = [torch.from_numpy(part.astype(np.int64)) for part in (data.train, data.dev, data.test)]
    model = NextWordModel(method, key["m"], torch.from_numpy(data.counts), seed)
    start = time.process_time()
    train(model, method.build is None, parts[0], key["rate"], seed)
    row = key | {
        "steps": STEPS,
        "seconds": round(time.process_time() - start, 1),
        "dev_perplexity": round(perplexity(model, parts[1], DEV), 2),
        "perplexity": round(perplexity(model, parts[2], TEST), 2),
    }
    row |= hardware()
    append_rows(table, [row])
    print({name: row[name] for name in (*key, "seconds", "perplexity")}, flush=True)
    return row


def runs(seeds: int) -> list[tuple[str, int, int]]:
    """(sampler, m, seed), the most telling and the cheaper ones first."""
    every = [
        (name, m, seed)
        for seed in range(seeds)
        for name, method in METHODS.items()
        for m in method.ms
        if seed < method.seeds
    ]
    return sorted(every, key=lambda run: (run[:2] in SLOW, run[2] if run[:2] in SLOW else 0))


def means() -> dict[str, dict[int, float]]:
    """Test perplexity by sampler and m, over the seeds measured so far."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in read_rows(NAME):
        per_m = found.setdefault(row["sampler"], {})
        per_m.setdefault(int(row["m"]), []).append(float(row["perplexity"]))
    return {
        name: {m: round(statistics.mean(found[name][m]), 1) for m in sorted(found[name])}
        for name in METHODS
        if name in found
    }


def answer(seeds: int) -> dict[str, Any]:
    """The plot, the means, and what they say of m."""
    found, figures = means(), {}
    sampled = [name for name in found if METHODS[name].build]
    lines = {name: [(float(m), p) for m, p in found[name].items()] for name in sampled}
    for name in [n for n in found if n not in sampled]:
        lines[name] = [(float(m), found[name][WORDS]) for m in (FEW[0], MANY[-1])]
    curves(NAME, {"Brown, 10,000 words": lines}, "m", "test perplexity", log_x=True, log_y=True)

    def close(name: str, m: int) -> bool:
        return found[name][m] <= CLOSE * found[YARDSTICK[name]][WORDS]

    def uniform_far(m: int) -> bool:
        """At the smallest m measured from ``m`` on."""
        larger = [u for u in found["uniform"] if u >= m]
        return bool(larger) and not close("uniform", larger[0])

    if "exact" in found:
        off = [abs(p / found["full"][WORDS] - 1) for p in found["exact"].values()]
        figures["exact_flat"] = round(max(off), 4)
    figures["within_2_percent"] = {
        name: [m for m in found[name] if close(name, m)] for name in sampled
    }
    for name in [n for n in found if n.startswith("quadratic")]:
        figures[f"{name}_close_uniform_at_8_m_far"] = [
            m for m in found[name] if close(name, m) and uniform_far(8 * m)
        ]
    done = {(row["sampler"], int(row["m"]), int(row["seed"])) for row in read_rows(NAME)}
    figures["left"] = [" ".join(map(str, run)) for run in runs(seeds) if run not in done]
    return {"perplexity": found} | figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="the learning rates of RATES")
    parser.add_argument("--seeds", type=int, default=3, help="at most so many")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = open_next_word(kept("brown", write_brown))
    if options.tune:
        for name, m in (("full", WORDS), ("uniform", 128), ("full_normalized", WORDS)):
            for rate in RATES:
                measured(data, TUNING, {"sampler": name, "m": m, "seed": 0, "rate": rate})
        return
    end = time.monotonic() + 60 * options.minutes
    for name, m, seed in runs(options.seeds):
        if time.monotonic() < end:
            measured(data, NAME, {"sampler": name, "m": m, "seed": seed, "rate": RATE})
    conclude(NAME, answer(options.seeds))


if __name__ == "__main__":
    main()

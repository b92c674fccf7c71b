"""How close is each proposal to the softmax of trained embeddings, and what is its gradient worth?

    python -m benchmarks.proposal_quality

20,000 items and 32 queries of Gene Ontology as a static tower embeds them after 1,000 training
steps at scale 20; the laws and the softmax at scales 5, 11 and 20 of the same embeddings, nothing
stale. Float64. Of each law q against the softmax p over a query's negatives: KL(p || q) (nats),
total variation, and the largest p / q (median over queries), which bounds every weight. Of its
draws: effective sample size, and bias and standard deviation of the gradient with respect to the
query and to the item embeddings, relative to the exact gradient's norm. ``exp_4`` is what ``rff_4``
and ``positive_4`` stand for, drawn exactly. ``quadratic_absolute`` is against the absolute softmax
of the same embeddings, which were not trained for it. Resumable per (method, scale, m).
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

import negcache as nc
from benchmarks.estimator_grid import embedded
from benchmarks.gradients import errors
from benchmarks.record import append_rows, bars, conclude, hardware, read_rows
from benchmarks.retrieval import fetched, log_popularity
from negcache.draws import draw, propose
from negcache.interfaces import DensitySampler
from negcache.messages import Request
from negcache.metrics import effective_sample_size
from negcache.ops.kernels import Quadratic, Quartic, fourier, positive
from negcache.ops.pool_sum import log_sums
from negcache.samplers import ExactKernel, KernelSoftmax
from negcache.shapes import Float64, Tensor

NAME, NUM_ITEMS, QUERIES, D = "proposal_quality", 20_000, 32, 64
SCALES, DRAWS, REPEATS = (5, 11, 20), (8, 64, 512), 48

Build = Callable[[nc.DenseCache, int, Tensor], DensitySampler]


def _kernel(kernel: Any, floor: float = 0.0) -> Build:
    return lambda store, m, _: KernelSoftmax(store, m, kernel, floor=floor)


def _log_uniform(store: nc.DenseCache, m: int, log_share: Tensor) -> DensitySampler:
    """Zipf's law over the items in the order of their training frequency."""
    rank = log_share.argsort(descending=True, stable=True).argsort().double()
    return nc.Popularity(torch.log1p(1 / (rank + 1)), m, power=1.0)


METHODS: dict[str, Build] = {  # (cache, m, log popularity) -> sampler
    "uniform": lambda store, m, _: nc.Uniform(store, m),
    "popularity": lambda _, m, log_share: nc.Popularity(log_share.exp(), m),
    "log_uniform": _log_uniform,
    "cached_exact": lambda store, m, _: nc.CachedSoftmax(store, m),
    "quadratic": _kernel(Quadratic(100.0)),
    "quadratic_floor": _kernel(Quadratic(100.0), 0.1),
    "quadratic_absolute": _kernel(Quadratic(100.0)),
    "quartic": lambda store, m, _: ExactKernel(store, m, Quartic()),
    "rff_1": _kernel(fourier(D, 1024, 1.0)),
    "rff_1_floor": _kernel(fourier(D, 1024, 1.0), 0.1),
    "rff_4": _kernel(fourier(D, 1024, 4.0)),
    "rff_4_floor": _kernel(fourier(D, 1024, 4.0), 0.1),
    "rff_4_R4096": _kernel(fourier(D, 4096, 4.0)),
    "positive_4": _kernel(positive(D, 1024, 4.0)),
    "positive_4_floor": _kernel(positive(D, 1024, 4.0), 0.1),
    "positive_4_R4096": _kernel(positive(D, 4096, 4.0)),
    "exp_4": lambda store, m, _: ExactKernel(store, m, fourier(D, 1, 4.0)),
}
TABLE = ("uniform", "quadratic", "quartic", "rff_1", "rff_4_R4096", "positive_4_R4096", "exp_4")
"""The columns of the synthetic check, in its order."""


def closeness(sampler: DensitySampler, request: Request, store: nc.DenseCache) -> dict[str, float]:
    """KL(p || q), total variation and the largest p / q, p the softmax over the negatives."""
    every, generator = torch.arange(NUM_ITEMS), torch.Generator().manual_seed(4)
    softmax = nc.CachedSoftmax(store, 1)
    log_p, log_q = (propose(s, request, generator).log_prob(every) for s in (softmax, sampler))
    p = log_p.exp()
    gap = torch.where(p > 0, log_p - log_q, 0.0)
    return {
        "kl": float((p * gap).sum(dim=1).mean()),
        "tv": float((p - log_q.exp()).abs().sum(dim=1).mean()) / 2,
        "largest_p_over_q": float(gap.amax(dim=1).exp().median()),
    }


def effective(
    sampler: DensitySampler, request: Request, items: Float64[Tensor, "N D"], repeats: int = 16
) -> float:
    """Mean effective sample size of a draw."""
    generator, sizes = torch.Generator().manual_seed(3), []
    for _ in range(repeats):
        drawn = draw(sampler, request, generator)
        assert drawn.columns is not None
        logits = request.score.paired(request.queries, items[drawn.ids[drawn.columns]])
        sizes.append(effective_sample_size(*log_sums(logits + drawn.log_weight)).mean())
    return float(torch.stack(sizes).mean())


def cells() -> Iterator[dict[str, Any]]:
    """Measure what is not yet measured."""
    done = {(r["method"], r["scale"], r["m"]) for r in read_rows(NAME)}
    asked = [(n, str(s), str(m)) for s in SCALES for n in METHODS for m in DRAWS]
    left = [key for key in asked if key not in done]
    if not left:
        return
    items, request = embedded(QUERIES)
    log_share = log_popularity(fetched("go"))[:NUM_ITEMS]
    store = nc.DenseCache(NUM_ITEMS, D, dtype=torch.float64)
    store.write(torch.arange(NUM_ITEMS), items)
    of, law = ("", ""), {}
    for name, scale, m in left:
        score = nc.DotScore(1 / float(scale), absolute=name.endswith("absolute")).double()
        here = replace(request, score=score.requires_grad_(False))
        sampler = METHODS[name](store, int(m), log_share)
        if (name, scale) != of:
            law, of = closeness(sampler, here, store), (name, scale)
        found = law | {"ess": effective(sampler, here, items)}
        found |= errors(sampler, nc.log_q_corrected, here, items, REPEATS)
        row = {"method": name, "scale": scale, "m": m}
        yield row | {k: f"{v:.4g}" for k, v in found.items()} | {"repeats": REPEATS}


def figure(method: str, scale: int, column: str, m: int = 64) -> float:
    """One measured figure; ``query_error`` is the root mean squared error of the gradient."""
    key = (method, str(scale), str(m))
    row = next(r for r in read_rows(NAME) if (r["method"], r["scale"], r["m"]) == key)
    if column != "query_error":
        return float(row[column])
    return (float(row["query_bias"]) ** 2 + float(row["query_sd"]) ** 2) ** 0.5


def answer() -> dict[str, Any]:
    """KL and gradient error of every law; the table of the synthetic check is printed."""
    print("scale", *TABLE, sep="\t")
    for scale in SCALES:
        pairs = [f"{figure(n, scale, 'tv'):.2f} / {figure(n, scale, 'kl'):.2f}" for n in TABLE]
        print(scale, *pairs, sep="\t")
    figures: dict[str, Any] = {}
    for scale in SCALES:
        for column, digits in (("kl", 3), ("ess", 1), ("query_error", 3)):
            found = {n: round(figure(n, scale, column), digits) for n in METHODS}
            name = column if column == "kl" else f"{column}_m_64"
            figures[f"{name}_scale_{scale}"] = dict(sorted(found.items(), key=lambda kv: kv[1]))
    return figures


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    for row in cells():
        append_rows(NAME, [row | hardware()])
        print(*list(row.values())[:7], flush=True)
    rows = [
        {"scale": f"scale {scale}", "law": n, "KL(p || q), nats": figure(n, scale, "kl")}
        for scale in SCALES
        for n in METHODS
    ]
    bars(NAME, rows, group="scale", label="law", value="KL(p || q), nats")
    conclude(NAME, answer())


if __name__ == "__main__":
    main()

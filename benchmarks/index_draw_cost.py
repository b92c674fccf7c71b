"""From how many items on is a draw by the dynamic index cheaper than the exact cached draw?

    python -m benchmarks.index_draw_cost

Clustered unit vectors: sqrt(N) centres of unequal weight, cosine 0.78 between an item and its own;
D = 64, so that rows are their own coordinates; batch 256, 64 draws per query, scale 20. CPU seconds
of one thread, medians of methods taken in turn after warm-up. Clusters are those of k-means on a
sample, about 4 sqrt(N); at 10^7 of half the sample with 5 iterations in place of 10, and no tree.

``exact`` is ``CachedSoftmax``, a pass over all rows. ``index`` scores all centres for all queries,
``two_level`` about 2 sqrt(G) coarse ones and the clusters of the best 16; ``chain_s`` scores s
items for each draw besides. ``resampled``: a shared pool of 16 proposals a query, of which each
query draws one. ``tree``: clusters of an SG tree in place of k-means. ``rejection`` (32 tries at
most) is exact only where it finds something. ``build_s`` is for all clusters; ``upkeep_ms`` for
1,000 rows that are written and the table that the next draw needs (``two_level`` makes its own
besides). Bytes are those of the index, without the rows: the exact draw needs these on the device.

A cheap draw from a bad law is no bargain: at 10^5 items, for 32 queries, KL(P || Q) against the
softmax, and the share of a draw that is effective, 1 / sum p^2 / q; laws are enumerated, those of
the ends of chains too. ``z_error``: root mean square of Z^ / Z - 1 of the draws themselves.
Resumable per (items, methods) and scale.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

import negcache as nc
from benchmarks.draw_cost_vs_items import clock, in_turn
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.rows import embeddings
from negcache.draws import draw, propose
from negcache.exclusion import Exclusion
from negcache.indexes.clusters import ClusterIndex, KMeansClusters
from negcache.indexes.scored_clusters import ClusterScorer
from negcache.indexes.sg_tree.tree_clusters import TreeClusters
from negcache.interfaces import DensitySampler, Sampler
from negcache.messages import Request
from negcache.samplers import DynamicIndexChain, DynamicIndexRejection
from negcache.shapes import Float, Float64, Tensor
from negcache.stores.gathered import bytes_of

NAME, D, B, DRAWS, SCALE, EXPAND = "index_draw_cost", 64, 256, 64, 20.0, 16
QUALITY = f"{NAME}_quality"
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
QUALITY_ITEMS, QUALITY_QUERIES, QUALITY_SCALES, ROUNDS = 100_000, 32, (20.0, 10.0), 10
LARGE, TREE, REJECTION, MOVED, BLOCK = 10_000_000, (100_000, 1_000_000), 100_000, 1_000, 1 << 16

Build = Callable[[nc.DenseCache, ClusterIndex], Sampler]
METHODS: dict[str, Build] = {
    "exact": lambda store, _: nc.CachedSoftmax(store, DRAWS),
    "index": lambda store, index: nc.DynamicIndex(store, DRAWS, index=index),
    "two_level": lambda store, index: nc.DynamicIndex(store, DRAWS, index=index, expand=EXPAND),
    "chain_2": lambda store, index: DynamicIndexChain(store, DRAWS, chain=2, index=index),
    "chain_8": lambda store, index: DynamicIndexChain(store, DRAWS, chain=8, index=index),
    "resampled": lambda store, index: nc.Resampled(nc.DynamicIndex(store, 16, index=index), 1),
    "rejection": lambda store, index: DynamicIndexRejection(store, DRAWS, rounds=4, index=index),
}
COLUMNS = ("items", "method", "draw_ms", "build_s", "upkeep_ms", "cells", "on_device", "in_memory")


def clustered(count: int, num_items: int, seed: int) -> Float[Tensor, "count D"]:
    """Points of the mixture that a corpus of so many items comes from."""
    same, own = (torch.Generator().manual_seed(each) for each in (0, seed))
    centres = F.normalize(torch.randn(math.isqrt(num_items), D, generator=same), dim=1)
    chosen = (torch.rand(count, generator=own).square() * len(centres)).long()
    spread = 0.1 * torch.randn(count, D, generator=own)
    return F.normalize(centres[chosen] + spread, dim=1)


def corpus(num_items: int) -> nc.DenseCache:
    """All rows, written a block at a time."""
    store = nc.DenseCache(num_items, D)
    for first in range(0, num_items, BLOCK):
        ids = torch.arange(first, min(first + BLOCK, num_items))
        store.write(ids, clustered(len(ids), num_items, 2 + first))
    return store


def asked(num_items: int, scale: float) -> Request:
    """A batch of queries, each with a random target."""
    random = torch.Generator().manual_seed(1)
    targets = torch.randint(0, num_items, (B,), generator=random)
    exclude = Exclusion.from_pairs(torch.arange(B), targets, B)
    score = nc.DotScore(1 / scale).requires_grad_(False)
    return Request(clustered(B, num_items, 1), score, targets, exclude)


def timed(run: Callable[[], Any]) -> float:
    start = clock()
    run()
    return clock() - start


def build(index: ClusterIndex, store: nc.DenseCache) -> int:
    """Bring the clusters up to date; how many there are."""
    index.update(store)
    return index.table.num_clusters


def upkeep(index: ClusterIndex, store: nc.DenseCache) -> float:
    """Median seconds of writing some rows, a little moved, and of the table after it."""
    random, seconds = torch.Generator().manual_seed(3), []
    for _ in range(3):
        ids = torch.randperm(len(store), generator=random)[:MOVED]
        moved = embeddings(store)[ids] + 0.01 * torch.randn(len(ids), D, generator=random)
        seconds.append(timed(lambda i=ids, m=moved: (store.write(i, m), build(index, store))))
    return sorted(seconds)[1]


def held(sampler: Sampler, index: ClusterIndex) -> tuple[int, int]:
    """Bytes of the index: on the device, in ordinary memory."""
    sampler = sampler.pool.sampler if isinstance(sampler, nc.Resampled) else sampler
    scorer = getattr(sampler, "clusters", None)
    if not isinstance(scorer, ClusterScorer):
        return 0, 0
    own = index.tree.state_dict() if isinstance(index, TreeClusters) else []
    return scorer.held.on_device, scorer.held.in_memory + bytes_of(own)


def measure(
    store: nc.DenseCache, samplers: dict[str, Sampler], index: ClusterIndex
) -> list[dict[str, Any]]:
    """Building, draws in turn, bytes, upkeep; the index is not built yet."""
    num_items, random = len(store), torch.Generator().manual_seed(4)
    request = asked(num_items, SCALE)
    build_s = timed(lambda: build(index, store))
    print(num_items, "built in", build_s, flush=True)
    runs = {name: partial(draw, each, request, random) for name, each in samplers.items()}
    first = timed(runs["two_level"]) if "two_level" in runs else 0.0
    draw_s = in_turn(runs, 3 if num_items == LARGE else 7)
    bytes_held = {name: held(each, index) for name, each in samplers.items()}
    clusters, upkeep_ms = index.table.num_clusters, 1000 * upkeep(index, store)
    rows = []
    for name in samplers:
        no_index = name == "exact"
        nesting = first - draw_s[name] if name == "two_level" else 0.0
        figures = ("", "", 0) if no_index else (build_s + nesting, upkeep_ms, clusters)
        values = (num_items, name, 1000 * draw_s[name], *figures, *bytes_held[name])
        short = (f"{each:.4g}" if isinstance(each, float) else each for each in values)
        rows.append(dict(zip(COLUMNS, short, strict=True)) | hardware())
        print(*list(rows[-1].values())[: len(COLUMNS)], flush=True)
    return rows


def costs(num_items: int) -> None:
    """All methods but the tree, at one size."""
    store, index = corpus(num_items), KMeansClusters()
    if num_items == LARGE:
        index = KMeansClusters(sample=16 * round(4 * num_items**0.5), iterations=5)
    names = [name for name in METHODS if name != "rejection" or num_items <= REJECTION]
    samplers = {name: METHODS[name](store, index) for name in names}
    append_rows(NAME, measure(store, samplers, index))


def tree_costs(num_items: int) -> None:
    store, tree = corpus(num_items), TreeClusters()
    append_rows(NAME, measure(store, {"tree": METHODS["index"](store, tree)}, tree))


def chain_law(
    log_p: Float64[Tensor, "b N"], log_q: Float64[Tensor, "b N"], moves: int
) -> Float64[Tensor, "b N"]:
    """log of the law of an independence chain after so many moves from a draw of Q."""
    order = (log_p - log_q).nan_to_num(nan=-torch.inf).argsort(dim=1)
    q = log_q.gather(1, order).exp()
    ratio = (log_p - log_q).gather(1, order).nan_to_num(nan=-torch.inf)
    weight = (ratio - ratio[:, -1:]).exp().clamp_min(1e-300)
    lower = (q * weight).cumsum(1) - q * weight
    leaves = lower / weight + q.flip(1).cumsum(1).flip(1)
    law = q
    for _ in range(moves):
        from_above = (law / weight).flip(1).cumsum(1).flip(1) - law / weight
        law = q * (law.cumsum(1) + weight * from_above) + law * (1 - leaves).clamp_min(0)
    return torch.empty_like(law).scatter_(1, order, law).log()


def distances(log_p: Float64[Tensor, "b N"], log_q: Float64[Tensor, "b N"]) -> dict[str, str]:
    """KL(P || Q) and 1 / sum p^2 / q, means over the queries."""
    p = log_p.exp()
    kl = (p * (log_p - log_q)).nan_to_num(nan=0.0).sum(1).mean()
    effective = (2 * log_p - log_q).nan_to_num(nan=-torch.inf).exp().sum(1).reciprocal().mean()
    return {"kl": f"{kl:.4g}", "effective": f"{effective:.4g}"}


def z_error(
    sampler: Sampler, request: Request, table: Float[Tensor, "N D"], log_z: Float64[Tensor, "B"]
) -> dict[str, str]:
    """Relative error of the partition over some draws; the share of draws not found."""
    random, squares, missed = torch.Generator().manual_seed(5), [], 0.0
    for _ in range(ROUNDS):
        drawn = draw(sampler, request, random)
        logits = request.score(request.queries, table[drawn.ids])
        logits = logits if drawn.columns is None else logits.gather(1, drawn.columns)
        found = torch.logsumexp(logits.double() + drawn.log_weight, dim=1)
        squares.append(((found - log_z).exp() - 1).square().mean())
        missed += drawn.metrics.get("not_found", 0.0) / ROUNDS
    error = float(torch.stack(squares).mean()) ** 0.5
    return {"z_error": f"{error:.4g}", "missed": f"{missed:.4g}"}


def quality(scale: float) -> None:
    """Every law against the softmax of cached scores, which here are the fresh ones."""
    store, everyone = corpus(QUALITY_ITEMS), torch.arange(QUALITY_ITEMS)
    request, index, random = asked(len(store), scale), KMeansClusters(), torch.Generator()
    few = request.slice(0, QUALITY_QUERIES)
    scores = request.score(request.queries, embeddings(store))
    scores = scores.masked_fill(request.exclude.mask(everyone), -torch.inf)
    log_z = torch.cat([torch.logsumexp(some.double(), dim=1) for some in scores.split(32)])
    log_p = torch.log_softmax(scores[:QUALITY_QUERIES].double(), dim=1)
    samplers = {name: make(store, index) for name, make in METHODS.items()}
    by_tree, by_chance = METHODS["index"](store, TreeClusters()), nc.Uniform(store, DRAWS)
    samplers |= {"tree": by_tree, "uniform": by_chance}
    laws = {
        name: torch.log_softmax(propose(each, few, random).log_prob(everyone).double(), dim=1)
        for name, each in samplers.items()
        if isinstance(each, DensitySampler)
    }
    laws |= {f"chain_{s}": chain_law(log_p, laws["index"], s - 1) for s in (2, 8)}
    rows = []
    for name, sampler in samplers.items():
        far = distances(log_p, laws[name]) if name in laws else {"kl": "", "effective": ""}
        found = far | z_error(sampler, request, embeddings(store), log_z)
        rows.append({"scale": scale, "method": name} | found | hardware())
        print(*list(rows[-1].values())[:6], flush=True)
    append_rows(QUALITY, rows)


def draw_ms(method: str) -> dict[int, float]:
    """The latest figure of each size."""
    rows = [row for row in read_rows(NAME) if row["method"] == method]
    return {int(row["items"]): float(row["draw_ms"]) for row in rows}


def crossing(method: str) -> int | None:
    """Items from which it is cheaper than ``exact``, between sizes by logarithms; None: nowhere."""
    ours, exact = draw_ms(method), draw_ms("exact")
    log_ratios = [(math.log(n), math.log(ours[n] / exact[n])) for n in sorted(ours)]
    dearer = [place for place, (_, ratio) in enumerate(log_ratios) if ratio >= 0]
    if not dearer:
        return min(ours)
    if dearer[-1] + 1 == len(log_ratios):
        return None
    (n, above), (m, below) = log_ratios[dearer[-1] : dearer[-1] + 2]
    return round(math.exp(n + (m - n) * above / (above - below)))


def answer() -> dict[str, Any]:
    """Crossings, costs, what is gained; how good the laws are, and what a good draw costs."""
    cost = {method: draw_ms(method) for method in [*METHODS, "tree"]}
    gains = {(m, n): round(cost["exact"][n] / cost[m][n], 1) for m in cost for n in cost[m]}
    figures: dict[str, Any] = {
        "crossing_items": {method: crossing(method) for method in cost if method != "exact"},
        "draw_ms": {m: {str(n): ms for n, ms in taken.items()} for m, taken in cost.items()},
        "speedup_10m": {method: gain for (method, n), gain in gains.items() if n == LARGE},
    }
    large = [r for r in read_rows(NAME) if (r["items"], r["method"]) == (str(LARGE), "index")]
    for column in ("build_s", "upkeep_ms", "on_device", "in_memory"):
        figures[f"{column}_10m"] = float(large[-1][column])
    ms = float(large[-1]["draw_ms"]) + float(large[-1]["upkeep_ms"])
    figures["speedup_with_upkeep_10m"] = round(cost["exact"][LARGE] / ms, 1)
    for column in ("kl", "effective", "z_error", "missed"):
        figures[column] = {
            f"{scale:g}": {
                row["method"]: float(row[column])
                for row in read_rows(QUALITY)
                if float(row["scale"]) == scale and row[column]
            }
            for scale in QUALITY_SCALES
        }
    figures["speedup_per_effective_draw_100k"] = {
        method: round(gains[method, QUALITY_ITEMS] * share, 2)
        for method, share in figures["effective"][f"{SCALE:g}"].items()
        if method in cost
    }
    return figures


def main() -> None:
    torch.set_num_threads(1)
    for scale in QUALITY_SCALES:
        if scale not in {float(row["scale"]) for row in read_rows(QUALITY)}:
            quality(scale)
    done = {(int(row["items"]), row["method"]) for row in read_rows(NAME)}
    for sizes, method, run in ((SIZES, "exact", costs), (TREE, "tree", tree_costs)):
        for num_items in sizes:
            if (num_items, method) not in done:
                run(num_items)
    names = [*METHODS, "tree"]
    lines = {name: [(float(n), ms) for n, ms in draw_ms(name).items()] for name in names}
    panels = {f"batch {B}, {DRAWS} draws": lines}
    curves(NAME, panels, "items N", "draw (CPU ms)", log_x=True, log_y=True)
    conclude(NAME, answer())


if __name__ == "__main__":
    main()

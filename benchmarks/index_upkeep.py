"""What does it cost to keep a dynamic index up to date, and what is it worth as it ages?

    python -m benchmarks.index_upkeep [--tasks go debian]

MiniLM whose top layer is trained (``frozen``), D = 384, L = 128, 10,000 items a task, uniform
shared draws, batch and rate of ``costly_encoder``. Every 100 of 500 steps all items, 256 training
queries and the tower are kept under ``.data``; all else is worked out from these snapshots.

*Quality*: a full pass at step 0 or 200, then a refresh of ``sample`` rows every 100 steps, seen
right after it: mean cosine to today's embeddings, mean total variation between the softmax over
them (scale 20, no positives) and over what the index makes of them. ``rho_dense`` encodes as many
of the stalest rows of a whole table, ``rho_low_rank`` is that table projected, ``fresh_low_rank`` a
full pass of today. Nobody is given what a training step encodes anyway.

*CPU seconds*, medians of runs taken in turn. All items are encoded against a sample and what the
store learns from it; an encoding is one layer of six here. Clusters of the coordinates that the
published refresh moves: built anew at each snapshot, or moved there from the one before. A tree
inserts again what breaks an invariant (``exact``), what twice the 0.95 quantile of movements puts
in doubt (``q95``; after the best rotation), or nothing (``sizes_only``). ``left_alone``: the
clusters of step 0; anchored coordinates do not move. ``spread``: mean distance of today's
embeddings to their cluster's mean. Resumable per task and part.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise, product
from typing import Any

import torch

import negcache as nc
from benchmarks.costly_encoder import BATCH, METHODS, TASKS, tuned_rate
from benchmarks.frozen import ITEMS, frozen
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import DATA, Problem, Run
from negcache.indexes.clusters import KMeansClusters
from negcache.indexes.sg_tree import SGTree
from negcache.interfaces import Reencoder, Store
from negcache.ops.lloyd import distance, nearest
from negcache.ops.nystrom import mean_cosine
from negcache.run.evaluation import encode_all
from negcache.shapes import Float, Int, Tensor
from negcache.stores import Corrector, Identity, Ridge, reading

NAME, SECONDS, CLUSTERS = "index_upkeep", "index_upkeep_seconds", "index_upkeep_cells"
STEPS, EVERY, QUERIES, CHUNK, REPEATS = 500, 100, 256, 64, 5
SAMPLES, SAMPLE, STARTS, SEEDS = (156, 312, 625, 1250), 625, (0, 200), (0, 1)
REENCODERS: dict[str, Callable[[], Reencoder]] = {
    "stale_low_rank": Identity,
    "ridge_anchored": Ridge,
    "ridge_compose": lambda: Ridge("compose"),
    "corrector": Corrector,
}
INDEXES = (*REENCODERS, "stale_dense", "rho_dense", "rho_low_rank", "fresh_low_rank")
TREES = ("tree anew", "tree exact", "tree q95", "tree sizes_only")
Snapshot = dict[str, Any]  # items, queries, tower


def snapshots(task: str, problem: Problem) -> list[Snapshot]:
    """One every ``EVERY`` steps of a fine-tuning run, the model as it came first."""
    paths = [DATA / NAME / task / f"step-{step}.pt" for step in range(0, STEPS + 1, EVERY)]
    if not all(path.exists() for path in paths):
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        run = Run(problem, METHODS["uniform"], tuned_rate(task, problem), 0, batch=BATCH)
        training = run.train(steps=STEPS, every=EVERY)
        for path in paths:
            torch.save(_seen(run), path)
            print(task, next(training, "trained"), flush=True)
    return [torch.load(path) for path in paths]


def _seen(run: Run) -> Snapshot:
    rows, problem = asked(run.problem)[0], run.problem
    return {
        "items": encode_all(run.tower, problem.items, run.score, chunk=CHUNK),
        "queries": encode_all(run.tower, problem.queries, run.score, ids=rows),
        "tower": run.tower.state_dict(),
    }


def asked(problem: Problem) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
    """Some training queries, and the target of each."""
    pairs = problem.task.learnable("train")
    pick = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(5))[:QUERIES]
    return pairs.queries[pick], pairs.items[pick]


def index(name: str, like: Tensor, *, sample: int = SAMPLE, seed: int = 0) -> nc.LowRankCache:
    """An empty low-rank cache for items like these, refreshed at every step."""
    return nc.LowRankCache(
        *like.shape, every=1, sample=sample, reencoder=REENCODERS[name](), full_below=0, seed=seed
    )


def see(store: Store, rows: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Fill the cache from today's embeddings, or refresh it; then what it makes of every item."""
    ids = missing if len(missing := store.missing()) else store.plan()
    store.commit()
    store.write(ids, rows[ids])
    store.step()
    return reading.embeddings(store, torch.arange(len(rows)))


def approximations(tables: list[Tensor], sample: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """What each index makes of the items, at the full pass and after each refresh."""
    low = {name: index(name, tables[0], sample=sample, seed=seed) for name in REENCODERS}
    rates = {"stale_dense": 0.0, "rho_dense": sample / len(tables[0])}
    dense = {name: nc.DenseCache(*tables[0].shape, refresh=rate) for name, rate in rates.items()}
    for step, rows in enumerate(tables):
        found = {name: see(store, rows) for name, store in (low | dense).items()}
        basis = low["stale_low_rank"].basis
        found["rho_low_rank"] = found["rho_dense"] @ basis @ basis.T
        found["fresh_low_rank"] = see(index("stale_low_rank", rows, seed=seed + 100 * step), rows)
        yield found


@torch.no_grad()
def quality(task: str, problem: Problem, taken: list[Snapshot]) -> None:
    """Cosine and total variation of every index at every age."""
    excluded = problem.task.known_positives("train").exclusion(*asked(problem))

    def law(now: int, items: Float[Tensor, "N D"]) -> Tensor:
        logits = nc.DotScore(0.05)(taken[now]["queries"], items).double()
        logits[excluded.rows, excluded.ids] = -torch.inf
        return logits.softmax(dim=1)

    truths, rows = [law(now, each["items"]) for now, each in enumerate(taken)], []
    for start, sample, seed in product(STARTS, SAMPLES, SEEDS):
        now = start // EVERY
        setting = {"task": task, "pass_at": start, "sample": sample, "seed": seed}
        for found in approximations([each["items"] for each in taken[now:]], sample, seed):
            setting |= {"age": now * EVERY - start}
            for method, seen in found.items():
                away = (law(now, seen) - truths[now]).abs().sum(dim=1).mean() / 2
                near = mean_cosine(seen, taken[now]["items"])
                figures = {"cosine": round(near, 5), "tv": round(float(away), 5)}
                rows.append(setting | {"method": method} | figures | hardware())
            now += 1
    append_rows(NAME, rows)


def medians(runs: dict[Any, Callable[[], Callable[[], Any]]]) -> dict[Any, float]:
    """CPU seconds of what each run prepares, taken in turn after one warm-up round."""
    taken: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS + 1):
        for name, prepare in runs.items():
            work, start = prepare(), time.process_time()
            work()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def reencoding(task: str, problem: Problem, taken: list[Snapshot]) -> None:
    """Seconds to encode all items, and a sample; and of what a store then learns from it."""
    tower, (first, last) = problem.tower(), (each["items"] for each in taken[-2:])
    tower.load_state_dict(taken[-1]["tower"])
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    encode = partial(encode_all, tower, problem.items, nc.DotScore(0.05), chunk=CHUNK)

    def learn(name: str, sample: int) -> Callable[[], None]:
        store = index(name, first, sample=sample)
        see(store, first)
        store.commit()
        store.write(ids := store.plan(), last[ids])
        return store.step

    runs = {("encode", s): partial(partial, encode, ids=order[:s]) for s in (*SAMPLES, ITEMS)}
    runs |= {(name, s): partial(learn, name, s) for name in [*REENCODERS][1:] for s in SAMPLES}
    for (what, count), each in medians(runs).items():
        row = {"task": task, "what": what, "rows": count, "cpu_seconds": f"{each:.4g}"}
        append_rows(SECONDS, [row | hardware()])


def coordinates(tables: list[Tensor]) -> list[Tensor]:
    """Of all items, without the ones, as each refresh moves them."""
    store, every, found = index("ridge_compose", tables[0]), torch.arange(len(tables[0])), []
    for rows in tables:
        see(store, rows)
        found.append(store.rows(every)[:, :-1].clone())
    return found


def means(labels: Int[Tensor, "N"], rows: Float[Tensor, "N D"]) -> Float[Tensor, "G D"]:
    """Of each cluster."""
    sums = rows.new_zeros(int(labels.max()) + 1, rows.shape[1]).index_add_(0, labels, rows)
    return sums / torch.bincount(labels).clamp_min(1)[:, None]


def clusters(rows: Float[Tensor, "N D"]) -> Int[Tensor, "N"]:
    """The cluster of each row by k-means."""
    store, index = nc.DenseCache(*rows.shape), KMeansClusters()
    store.write(torch.arange(len(rows)), rows)
    index.update(store)
    return index.table.labels


def move(
    trees: dict[str, SGTree], labels: Int[Tensor, "N"], new: Float[Tensor, "N C"], drift: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each way, and share of the items that it inserted again."""
    share: dict[str, float] = {}
    saved = {way: {k: v.clone() for k, v in trees[way].state_dict().items()} for way in trees}

    def grow(way: str) -> None:
        if way == "tree anew":
            trees[way].build(new)
        elif way == "tree sizes_only":
            trees[way].nodes = trees[way].nodes._replace(vectors=new.clone().numpy())
            trees[way].refresh()
        else:
            share[way] = trees[way].update(new, drift if way == "tree q95" else None) / len(new)

    def prepare(way: str) -> Callable[[], None]:
        trees[way].load_state_dict(saved[way])
        return partial(grow, way)

    runs: dict[str, Callable[[], Any]] = {way: partial(prepare, way) for way in trees}
    runs["k-means anew"] = lambda: partial(clusters, new)
    runs["k-means reassign"] = lambda: lambda: nearest(new, means(labels, new))
    return medians(runs), share


@torch.no_grad()
def upkeep(task: str, problem: Problem, taken: list[Snapshot]) -> None:
    """Each way to bring clusters from one snapshot to the next: seconds, share moved, spread."""
    tables, rows = [each["items"] for each in taken], []
    places, trees = coordinates(tables), {way: SGTree() for way in TREES}
    for tree in trees.values():
        tree.build(places[0])
    count, found = round(4 * len(places[0]) ** 0.5), {"k-means left_alone": clusters(places[0])}
    found["k-means reassign"] = found["k-means left_alone"]
    found["tree left_alone"] = trees["tree anew"].cut_into(count).labels
    for step, (old, new) in enumerate(pairwise(places), start=1):
        today, before = tables[step], found["k-means reassign"]
        left, _, right = torch.linalg.svd(new.T @ old)
        went = torch.linalg.vector_norm(new @ (left @ right) - old, dim=1)
        seconds, share = move(trees, before, new, 2 * float(went.quantile(0.95)))
        found |= {way: tree.cut_into(count).labels for way, tree in trees.items()}
        found["k-means anew"] = clusters(new)
        found["k-means reassign"], _ = nearest(new, means(before, new))
        for way, labels in found.items():
            row = {"task": task, "step": step * EVERY, "way": way}
            row |= {"cpu_seconds": f"{seconds.get(way, 0):.4g}", "share": share.get(way, 0)}
            away = distance(today, means(labels, today), labels).mean()
            row |= {"moved": round(float(went.median()), 4), "spread": round(float(away), 4)}
            rows.append(row | hardware())
    append_rows(CLUSTERS, rows)


def middle(table: str, value: str, **keys: Any) -> float:
    """Median of a column over the rows with these keys."""
    rows = [r for r in read_rows(table) if all(r[k] == str(key) for k, key in keys.items())]
    return statistics.median(float(r[value]) for r in rows)


def verdict(tasks: list[str]) -> dict[str, Any]:
    """The two speeds; clusters kept up in other ways; quality 500 steps after the full pass."""
    seconds, cost = (partial(middle, table, "cpu_seconds") for table in (CLUSTERS, SECONDS))
    answer: dict[str, Any] = {"share_inserted_again": middle(CLUSTERS, "share", way="tree exact")}
    for way in (*TREES[1:], "k-means reassign"):
        speed = seconds(way=f"{way.split()[0]} anew") / seconds(way=way)
        answer[f"{way.replace(' ', '_')}_speedup"] = round(speed, 2)
    answer["tree_update_speedup"] = answer["tree_exact_speedup"]
    for s in (*SAMPLES, SAMPLE):
        refresh = cost(what="encode", rows=s) + cost(what="ridge_anchored", rows=s)
        speed = round(cost(what="encode", rows=ITEMS) / refresh, 2)
        answer |= {f"reencode_speedup_{s}": speed, "reencode_speedup": speed}
    panels = {f"{task}, {y}": curve(task, y) for task, y in product(tasks, ("cosine", "tv"))}
    curves(NAME, panels, "steps since the full pass", "", log_x=False)
    for title, lines in panels.items():
        answer[title] = {name: round(line[-1][1], 3) for name, line in lines.items()}
    return answer


def curve(task: str, measure: str) -> dict[str, list[tuple[float, float]]]:
    """By age since the first full pass, for each index."""
    of = partial(middle, NAME, measure, task=task, pass_at=0, sample=SAMPLE)
    ages = range(0, STEPS + 1, EVERY)
    return {name: [(age, of(method=name, age=age)) for age in ages] for name in INDEXES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["go", "debian"], choices=list(TASKS))
    tasks = parser.parse_args().tasks
    torch.set_num_threads(1)
    for task in tasks:
        problem = frozen(task)
        taken = snapshots(task, problem)
        for part, table in ((quality, NAME), (reencoding, SECONDS), (upkeep, CLUSTERS)):
            if not any(r["task"] == task for r in read_rows(table)):
                part(task, problem, taken)
    conclude(NAME, verdict(tasks))


if __name__ == "__main__":
    main()

"""The roster in each of some processes: ``python FILE FOLDER RANK WORLD [CASE ...]``."""

import sys
import warnings
from functools import partial

import torch
from processes import met
from roster import ROSTER, Case, problem
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import negcache as nc
from negcache.testing.conformance import check_sampler

N, FEATURES, D, GLOBAL, STEPS = 700, 5, 8, 12, 3
"""Six blocks of 128 rows, the last one short."""

REFUSED = ("index_tree", "grouped_top_k")
"""By name: a method as it was printed, whose draws may begin again on another process."""

CLUSTERS = (
    "dynamic_index", "shared_dynamic_index", "chain", "as_printed", "index_miner",
    "index_rejection", "resampled",
)  # fmt: skip
"""Each process has clusters of its own rows: another law than one process has, which it obeys."""

OTHER_DRAWS = ("rf_softmax", *CLUSTERS)
"""A floor has the law of one process, but its uniform draws are others."""

OVER_COORDINATES = (
    "cached", "shared_cached", "flat", "shared_scored", "distinct", "head_tail", "rest", "joined",
    "shared_mixture", "stale_top_k_tail", "resampled_uniform",
)  # fmt: skip
"""Tried over a low-rank cache too, beside those that draw by clusters."""

LAWS = ("cached", "quadratic", *OTHER_DRAWS)
"""Tried against the laws of samplers, among several processes."""

LAWS_OF_COORDINATES = ("dynamic_index", "index_rejection")

UNEQUAL = {1: [12], 2: [7, 5], 3: [4, 6, 2], 4: [3, 2, 4, 3]}
"""Queries of each process."""


class Noted:
    """A corpus that notes which items are encoded with gradient."""

    def __init__(self, features):
        self.features, self.ids = features, []

    def __len__(self):
        return len(self.features)

    def __getitem__(self, ids):
        if torch.is_grad_enabled():
            self.ids.append(ids)
        return self.features[ids]


def normal(*shape, seed):
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=noise, dtype=torch.float64)


def low_rank():
    """A sample every step, and full passes wherever its cosine falls at all."""
    settings = {"landmarks": 6, "every": 1, "sample": 60, "full_below": 1.0}
    return nc.LowRankCache(N, D, dtype=torch.float64, **settings)


def build(case, *, kind="dense", corpus=None):
    """Two linear towers, a learned temperature, known positives."""
    torch.manual_seed(0)
    corpus = Noted(normal(N, FEATURES, seed=1)) if corpus is None else corpus
    towers = [nn.Linear(FEATURES, D, dtype=torch.float64) for _ in range(2)]
    options = {"refresh": 0.05, "dtype": torch.float64}
    stores = {
        "dense": partial(nc.DenseCache, N, D, **options),
        "half": partial(nc.SubsetCache, N, D, 400, **options),
        "low": low_rank,
    }
    score = nc.DotScore(0.3, learn_temperature=True).double()
    rows = torch.arange(STEPS * GLOBAL)
    known = nc.KnownPositives.from_pairs(rows.repeat(2), torch.cat([rows, rows + 300]), len(rows))
    sampler = case.build(stores[kind]())
    loss_fn = nc.SoftmaxLoss(towers[0], corpus, sampler, score, known_positives=known)
    return nc.Retriever(loss_fn, towers[1])


def batch(step, rank, world):
    """This process' queries of the global batch; shares are unequal."""
    sizes = UNEQUAL[world]
    first = step * GLOBAL + sum(sizes[:rank])
    rows = torch.arange(first, first + sizes[rank])
    queries = normal(STEPS * GLOBAL, FEATURES, seed=2)[rows]
    return {"queries": queries, "positives": rows, "query_ids": rows}


def train(model, rank, world):
    """What three steps encode, lose and leave behind."""
    loss_fn, corpus = model.loss_fn, model.loss_fn.corpus
    wrapped = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    found = {"losses": [], "encoded": [], "gradients": [], "passes": 0}
    for step in range(STEPS):
        corpus.ids.clear()
        optimizer.zero_grad()
        loss = wrapped(**batch(step, rank, world))["loss"]
        loss.backward()
        found["losses"].append(loss.detach())
        found["encoded"].append(torch.cat(corpus.ids))
        found["gradients"].append([each.grad.clone() for each in model.parameters()])
        optimizer.step()
        loss_fn.step()
        found["passes"] += bool(getattr(loss_fn.store, "fits", 1) == 0)
    store = loss_fn.store
    found["renewed"] = loss_fn.report().encoded_nograd
    if store is not None:
        slots = torch.arange(store.num_rows)
        order = store.ids(slots).argsort()
        found["rows"] = store.ids(slots)[order], store.rows(slots)[order], store.valid[order]
    return found


CASES = {case.name: partial(build, case) for case in ROSTER if case.name != "given"} | {
    f"half_{case.name}": partial(build, case, kind="half")
    for case in ROSTER
    if "half" not in case.refuses and case.name not in ("given", *REFUSED)
}
CASES |= {
    f"low_{case.name}": partial(build, case, kind="low")
    for case in ROSTER
    if case.name in (*OVER_COORDINATES, *CLUSTERS)
}
CASES["no_floor"] = partial(
    build,
    Case("no_floor", lambda store: nc.rf_softmax(store, 6, num_frequencies=8, nu=3.0, floor=0.0)),
)


def obey(case):
    """The laws of samplers, on every process the same request; over rows, and coordinates."""
    request, items, store = problem(drift=0.3, num_items=N)
    coordinates = low_rank()
    for each in (store, coordinates)[: 1 + (case.name in LAWS_OF_COORDINATES)]:
        coordinates.write(missing := coordinates.missing(), items[missing])
        check_sampler(case.build(each), request, items, unbiased=case.unbiased, rounds=50)


def main(folder, rank, world, *names):
    found = {}
    with met(folder, rank, world):
        for name in names or CASES:
            try:
                found[name] = train(CASES[name](), rank, world)
            except nc.InputError as error:
                found[name] = str(error)
        for case in ROSTER:
            if world > 1 and case.name in LAWS and case.name in (names or LAWS):
                obey(case)
        torch.save(found, f"{folder}/{rank}-of-{world}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])

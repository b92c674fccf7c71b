"""Three steps in each of some processes, DDP and FSDP2: ``python FILE FOLDER RANK WORLD``."""

import re
import sys
import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from processes import met
from text_towers import CORPUS, ROWS, D, N, Tower, collate
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import negcache as nc
from negcache.distributed import Mesh
from negcache.samplers.look import Choice

STEPS, GLOBAL = 3, 8
APART = {"gather_across_devices": False}


def towers(sampler, seed=0, temperature=True):
    """Texts against texts: what is drawn reads no store."""
    torch.manual_seed(seed)
    query_tower, item_tower = Tower(), Tower()
    score = nc.DotScore(0.3, learn_temperature=temperature)
    return nc.Retriever(nc.SoftmaxLoss(item_tower, CORPUS, sampler(CORPUS), score), query_tower)


def table(sampler, **settings):
    """Texts against a free vector for each item, read where it trains."""
    torch.manual_seed(0)
    query_tower, items = Tower(), nn.Embedding(N, D)
    score = nc.DotScore(0.3, learn_temperature=True, normalize=False)
    loss_fn = nc.SoftmaxLoss(
        items, torch.arange(N), sampler(nc.LiveTable(items)), score, **settings
    )
    return nc.Retriever(loss_fn, query_tower)


class Classifier(nn.Module):
    """A tower that ends in a head."""

    def __init__(self, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.tower, self.head = Tower(), nc.SoftmaxHead(N, D, num_samples=5, **settings)

    def forward(self, queries, positives):
        return {"loss": self.head(self.tower(queries), positives)}


class TiedClassifier(Classifier):
    """Its head's table is an embedding of the model."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(N, D)
        self.head = nc.SoftmaxHead.tied(self.words, num_samples=5)


def caches_at_once(corpus):
    """The automatic choice, once it has taken cached draws."""
    sampler = nc.samplers.Auto(corpus)
    sampler.begin(GLOBAL, D, 10**7, 0)
    sampler.budget.choice = Choice(4, 6)
    sampler._make_store(torch.device("cpu"))
    return sampler


DDP = {
    "auto": lambda: towers(lambda corpus: "auto"),
    "auto_cached": lambda: towers(caches_at_once),
    "uniform": lambda: towers(lambda corpus: nc.Uniform(corpus, 5)),
    "cached": lambda: table(lambda rows: nc.CachedSoftmax(rows, 5)),
    "scored": lambda: table(lambda rows: nc.CachedSoftmax(rows, 5, scored=0.5)),
    "distinct": lambda: table(lambda rows: nc.samplers.CachedDistinct(rows, 5)),
    "head_tail": lambda: table(lambda rows: nc.samplers.HeadTail(rows, 3, 3)),
    "rest": lambda: table(lambda rows: nc.CachedRest(rows, 5)),
    "shared": lambda: table(lambda rows: nc.SharedDraws(nc.CachedSoftmax(rows, 1))),
    "rest_apart": lambda: table(lambda rows: nc.CachedRest(rows, 5), **APART),
    "shared_apart": lambda: table(lambda rows: nc.SharedDraws(nc.CachedSoftmax(rows, 1)), **APART),
    "full": lambda: table(nc.FullSoftmax),
    "head": Classifier,
    "sparse_head": partial(Classifier, sparse=True, bias=False),
    "kernel_head": partial(Classifier, sampler=nc.quadratic),
    "tied_head": TiedClassifier,
    "uniform_head": partial(Classifier, sampler=nc.Uniform),
}

POOLED = ["rest_apart", "shared_apart"]
"""Draws shared by the queries of a process."""

LAGGING = ["kernel_head"]
"""Sums that hear of the other process' rows when they start anew."""

STORING = ["auto_cached"]
"""Each process has rows of its own, and their state."""

RESUMED = [name for name in DDP if name not in LAGGING + STORING]
"""The state of one process is that of all."""

FSDP = {
    "root": DDP["uniform"],
    "nested": DDP["uniform"],
    "live": DDP["cached"],
    "evaluated": DDP["uniform"],
}


def batch(step, rank, world):
    """This process' rows of the global batch."""
    mine = ROWS[step * GLOBAL : (step + 1) * GLOBAL][rank * GLOBAL // world :][: GLOBAL // world]
    rows = collate(mine)
    return {"queries": rows["queries"], "positives": rows["positives"]}


def train(model, rank, world, between=lambda: None, steps=range(STEPS)):
    """(gradients of the first step, parameters after the last), whole."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer, first = torch.optim.SGD(parameters, 0.5), []
    for step in steps:
        model(**batch(step, rank, world))["loss"].backward()
        between()
        first = first or [whole(each.grad).to_dense() for each in parameters]
        optimizer.step()
        optimizer.zero_grad()
    return first, [whole(each.detach()) for each in parameters]


def resume(name, folder, rank, world):
    """Saved by the first process after two steps, and gone on with by all from another start."""
    model, path = DistributedDataParallel(DDP[name]()), f"{folder}/{name}.pt"
    train(model, rank, world, steps=range(2))
    if rank == 0:
        torch.save(model.module.state_dict(), path)
    dist.barrier()
    other = DDP[name]()
    with torch.no_grad():
        for each in other.parameters():
            each += 1
    other.load_state_dict(torch.load(path))
    return train(DistributedDataParallel(other), rank, world, steps=range(2, STEPS))


def whole(tensor):
    """Of all processes, a copy."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def sharded(name, model):
    if name == "nested":
        for part in (model.query_tower, model.loss_fn.item_tower):
            fully_shard(part)
    return fully_shard(model)


def train_sharded(name, rank, world):
    model = FSDP[name]()
    if world > 1:
        sharded(name, model)

    def evaluate():
        model.eval()
        with torch.no_grad():
            model(**batch(0, rank, world))
        if world > 1:
            model.reshard()  # the root would go on with the weights of before the step
        model.train()

    return train(model, rank, world, evaluate if name == "evaluated" else lambda: None)


def refusals(rank, world):
    """What would drift apart, by name, before anything is drawn."""
    rows = batch(0, rank, world)
    foreign, queries = nn.Embedding(N, D), torch.randn(len(rows["positives"]), D)
    share = DistributedDataParallel
    for meant, model in {
        "KernelSums of Quadratic": share(table(lambda rows: nc.quadratic(rows, 5))),
        "LiveTable(item_tower)": share(
            table(lambda rows: nc.CachedSoftmax(nc.LiveTable(foreign), 5))
        ),
        "a store shared by the 2 processes": share(
            towers(lambda corpus: nc.CachedSoftmax(nc.DenseCache(N, D, mesh=Mesh()), 5))
        ),
        "KernelSums of Quadratic, 2 processes": share(
            Classifier(sampler=nc.quadratic, sparse=True)
        ),
    }.items():
        with pytest.raises(nc.InputError, match=re.escape(meant)):
            model(**rows)
    for name in ("uniform", "cached", "head", "tied_head"):
        with pytest.raises(nc.InputError, match="parameters outside DistributedDataParallel"):
            DDP[name]()(**rows)
    with torch.no_grad():  # an evaluation shares nothing
        DDP["cached"]().loss_fn(queries, rows["positives"])


def main(folder, rank, world):
    found = {}
    with met(folder, rank, world):
        for name, build in DDP.items():
            model = build() if world == 1 else DistributedDataParallel(build())
            found[name] = train(model, rank, world)
        for name in FSDP:
            found[f"fsdp_{name}"] = train_sharded(name, rank, world)
        if world > 1:
            for name in RESUMED:
                found[f"resumed_{name}"] = resume(name, folder, rank, world)
            refusals(rank, world)
    torch.save(found, f"{folder}/{rank}-of-{world}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""Settings of a loss in each of some processes: ``python FILE FOLDER RANK WORLD [CASE ...]``."""

import sys
import warnings
from functools import partial

import pytest
import torch
from processes import met
from sharded_coordinates import coordinates
from sharded_laws import floor, golden, mined
from sharded_stream import stream
from sharded_training import FEATURES, GLOBAL, STEPS, UNEQUAL, D, N, normal
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import negcache as nc
from negcache.distributed import Mesh
from negcache.estimators import cached_partition

F64 = torch.float64
ROWS = STEPS * GLOBAL
FEATURES_OF_ITEMS = normal(N, FEATURES, seed=1)
QUERIES, POSITIVES = normal(ROWS, FEATURES, seed=2), torch.arange(ROWS)
COUNTS = torch.arange(N).flip(0) + 1
FIRST = torch.arange(ROWS) % GLOBAL < UNEQUAL[2][0]
"""Queries of the first of two processes."""


def cached(store):
    return nc.CachedSoftmax(store, 6)


def head_tail(store):
    return nc.samplers.HeadTail(store, 3, 3)


def joined(store):
    log_popularity = (COUNTS / COUNTS.sum()).log()
    return nc.SharedDraws(cached(store), log_popularity=log_popularity)


def linear():
    return nn.Linear(FEATURES, D, dtype=F64)


class Checkpointed(nn.Module):
    """A tower that computes its inside once more in the backward pass."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(linear(), nn.Tanh())

    def forward(self, features):
        return checkpoint(self.inside, features, use_reentrant=False)


class Reduced(nn.Module):
    """A retriever whose losses are reduced in another way."""

    def __init__(self, reduction):
        super().__init__()
        self.inside, self.reduction = build(), reduction
        self.loss_fn = self.inside.loss_fn

    def forward(self, queries, **ids):
        rows = self.inside.query_tower(queries)
        return {"loss": self.loss_fn(rows, **ids, reduction=self.reduction)}


class Classifier(nn.Module):
    """A tower that ends in a head."""

    def __init__(self, sampler):
        super().__init__()
        torch.manual_seed(0)
        self.tower, self.head = linear(), nc.SoftmaxHead(N, D, sampler, 6, dtype=F64)

    def forward(self, queries, positives, weight=None):
        return {"loss": self.head(self.tower(queries), positives, weight=weight)}


def build(sampler=cached, *, tower=linear, shared=False, refresh=0.05, **settings):
    """Two towers and a learned temperature over a cache that the processes share."""
    torch.manual_seed(0)
    query_tower, item_tower = linear(), tower()
    store = nc.DenseCache(N, D, refresh=refresh, dtype=F64)
    score = nc.DotScore(0.3, learn_temperature=True).double()
    loss_fn = nc.SoftmaxLoss(item_tower, FEATURES_OF_ITEMS, sampler(store), score, **settings)
    return nc.Retriever(loss_fn, None if shared else query_tower)


def mine(values, step, rank, world):
    """This process' rows of the global batch."""
    sizes = UNEQUAL[world]
    first = step * GLOBAL + sum(sizes[:rank])
    return values[first : first + sizes[rank]]


def narrow(ids):
    """Without columns of padding."""
    return ids[:, (ids >= 0).any(dim=0)]


COLUMNS = {
    "weight": torch.rand(ROWS, generator=torch.Generator().manual_seed(3), dtype=F64),
    "negatives": torch.arange(ROWS)[:, None] + torch.tensor([100, 200, 300]),
    "several": torch.arange(ROWS)[:, None] + torch.tensor([0, 150, 400]),
    "ignored": POSITIVES.where(FIRST | (torch.arange(ROWS) >= GLOBAL), -100),
    "silent": torch.rand(ROWS, generator=torch.Generator().manual_seed(3), dtype=F64) * FIRST,
}
"""What a batch may have: ids are fewer where the first process has them; the second's queries have
no class in the first step, or no weight at all."""
COLUMNS["negatives"][FIRST, 2] = -1
COLUMNS["several"][FIRST, 2] = -1
COLUMNS["ignored"][1::5] = -100


def batch(step, rank, world, names=()):
    found = {"queries": QUERIES, "positives": POSITIVES}
    found |= {name: COLUMNS[name] for name in names}
    found = {name: mine(each, step, rank, world) for name, each in found.items()}
    for name, column in (("several", "positives"), ("ignored", "positives"), ("silent", "weight")):
        if name in found:
            found[column] = found.pop(name)
    return {
        name: narrow(each) if each.ndim == 2 and not each.is_floating_point() else each
        for name, each in found.items()
    }


def whole(tensor):
    """Of all processes, a copy."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def train(model, rank, world, columns=(), wrap=DistributedDataParallel, between=lambda _: None):
    """Losses and gradients of some steps."""
    wrapped = wrap(model) if world > 1 else model
    parameters = [each for each in wrapped.parameters() if each.requires_grad]
    divided = world if isinstance(model, Reduced) else 1  # by DDP, where a sum is none of means
    optimizer = torch.optim.SGD(parameters, 0.05 * divided)
    found = {"losses": [], "gradients": []}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = wrapped(**batch(step, rank, world, columns))["loss"]
        loss.sum().backward()
        found["losses"].append(loss.detach())
        found["gradients"].append([whole(each.grad) for each in parameters])
        optimizer.step()
        between(model)
        if hasattr(model, "loss_fn"):
            model.loss_fn.step()
    return found


def nested(model):
    for part in (model.query_tower, model.loss_fn.item_tower):
        fully_shard(part)
    return fully_shard(model)


def evaluated(rank, world):
    """Passes without gradient after every step, in both modes."""

    def evaluate(model):
        for mode in (False, True):
            model.train(mode)
            with torch.no_grad():
                model(**batch(0, rank, world))

    return train(build(), rank, world, between=evaluate)


def forgetful(rank, world):
    """The second process once goes on without a step, makes up for it, and all go on."""
    model, said = build(), []
    wrapped = DistributedDataParallel(model) if world > 1 else model

    def forget(model):
        if world > 1 and model.loss_fn.store.clock == 1:
            with pytest.raises(nc.InputError) as refused:
                model.loss_fn.step() if rank == 0 else wrapped(**batch(2, rank, world))
            said.append(str(refused.value))

    return train(model, rank, world, wrap=lambda _: wrapped, between=forget) | {"said": said}


def refused(meant, call):
    with pytest.raises(nc.InputError, match=meant):
        call()


def refusals(rank, early):
    """By name, on every process, before anything is drawn."""
    rows, share = batch(0, rank, 2), DistributedDataParallel
    refused("gather_across_devices=True", partial(build, gather_across_devices=False))
    refused("at most 1 processes for a store of 100 rows", lambda: nc.DenseCache(100, D))
    refused("at most 1 processes", lambda: nc.SubsetCache(N, D, 100))
    refused("at most 1 processes", lambda: nc.LowRankCache(100, D))
    alone = nc.LowRankCache(N, D, dtype=F64, mesh=Mesh())
    for store in (early, alone):
        model = share(build(lambda _, store=store: cached(store)))
        refused(type(store).__name__, partial(model, **rows))
    model = share(build())
    some = {} if rank else {"negatives": COLUMNS["negatives"][: len(rows["queries"])]}
    refused("none on process 1", partial(model, **rows, **some))
    refused("fully_shard\\(item_tower\\) first", partial(fully_shard(build()), **rows))


SAMPLERS = {"cached": cached, "joined": joined, "rest": lambda store: nc.CachedRest(store, 20)}


def model_of(make, columns=(), **settings):
    return lambda rank, world: train(make(), rank, world, columns, **settings)


HEADS = {
    "cached": nc.CachedSoftmax,
    "uniform": nc.Uniform,
    "distinct": nc.samplers.CachedDistinct,
}

DDP = {
    "cached": model_of(build),
    "mini_batches": model_of(partial(build, mini_batch_size=4)),
    "checkpointed": model_of(partial(build, tower=Checkpointed)),
    "shared_tower": model_of(partial(build, shared=True)),
    "negatives": model_of(build, ["negatives"]),
    "several": model_of(build, ["several"]),
    "several_joined": model_of(partial(build, joined), ["several"]),
    "weight": model_of(build, ["weight"]),
    "silent": model_of(build, ["silent"]),
    "uniform": model_of(partial(build, lambda _: nc.Uniform(range(N), 6)), ["weight"]),
    "popularity": model_of(partial(build, lambda _: nc.Popularity(COUNTS, 6)), ["weight"]),
    "by_partition": model_of(partial(build, estimator=cached_partition)),
    "by_partition_of_head": model_of(partial(build, head_tail, estimator=cached_partition)),
    "evaluated": evaluated,
    "forgetful": forgetful,
    "none": model_of(partial(Reduced, "none")),
    "sum": model_of(partial(Reduced, "sum")),
} | {
    f"head_{name}{'_'.join(['', *columns])}": model_of(partial(Classifier, sampler), columns)
    for name, sampler in HEADS.items()
    for columns in ([], ["ignored"], ["weight"])
}

FSDP = {
    f"nested_{name}": model_of(partial(build, sampler), wrap=nested)
    for name, sampler in SAMPLERS.items()
} | {
    "seldom": model_of(partial(build, refresh=0.001), wrap=nested),
    "parts": model_of(partial(build, mini_batch_size=4), wrap=nested),
}
"""Under FSDP2; with a refresh that only one process has at a time, and in parts."""

CASES = DDP | FSDP | {"golden": golden, "floor": floor, "mined": mined}
CASES |= {"coordinates": coordinates, "stream": stream}


def main(folder, rank, world, *names):
    early = nc.DenseCache(N, D, dtype=F64)
    with met(folder, rank, world):
        found = {name: CASES[name](rank, world) for name in names or CASES}
        if world > 1:
            refusals(rank, early)
        torch.save(found, f"{folder}/{rank}-of-{world}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])

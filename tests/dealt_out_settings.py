"""Classes dealt out: refused, saved, clipped. ``python FILE FOLDER RANK WORLD PHASE``."""

import copy
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from dealt_out_training import SHARE, Model, batch
from processes import met
from sharded_settings import F64, refused
from sharded_training import D, N
from torch import nn

import negcache as nc
from negcache.packing import add_up
from negcache.run.training.checkpoint import Checkpoints

MEETS = {"hidden": torch.zeros(2, D, dtype=F64), "target": torch.tensor([1, 400])}


def train(model, steps, rank, world, clip=lambda _: None):
    """Some steps, by SGD; what was clipped."""
    wrapped = SHARE(model) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    norms = []
    for number in steps:
        optimizer.zero_grad()
        wrapped(**batch(number, rank, world)).backward()
        norms.append(clip(model))
        optimizer.step()
    return norms


def outcome(model):
    """The rows here and the sums of the sampler."""
    model.head.table.flush()
    sums = model.head.sampler.sums
    blocks = -(-model.head.table.num_rows // 128)
    return {
        "rows": model.head.table.weight.detach().clone(),
        "tower": [each.detach().clone() for each in model.tower.parameters()],
        "sums": sums.levels[0][:blocks].clone(),
    }


def saved(folder, name, world):
    return [torch.load(f"{folder}/{name}-{rank}-of-{world}.pt") for rank in range(world)]


def keep(folder, name, rank, world, model):
    state = {"model": model.state_dict(), "head": model.head.own_state()}
    torch.save(state, f"{folder}/{name}-{rank}-of-{world}.pt")


def begin(folder, rank, world):
    """A step, and the states of all, by hand and by checkpoint."""
    model = Model(nc.quadratic)
    train(model, [0], rank, world)
    keep(folder, "first", rank, world, model)
    checkpoints = Checkpoints(Path(folder) / "saved", mesh=model.head.table.shard.mesh)
    checkpoints.save(1, {"model": model.state_dict()})
    torch.manual_seed(1)
    other = nc.SoftmaxHead(N, D, nc.quadratic, 6, dtype=F64, shard_classes=True)  # of other rows
    other.load_state_dict(model.head.state_dict())  # a process takes what it saved
    assert torch.equal(other.weight, model.head.weight)
    copied = copy.deepcopy(model)  # goes on as the first would
    for each in (model, copied):
        train(each, [1], rank, world)
    assert torch.equal(copied.head.weight, model.head.weight)


def go_on(folder, rank, world):
    """One process, by a head that is not dealt out."""
    model, states = Model(nc.quadratic, shard_classes=False), saved(folder, "first", 2)
    model.load_state_dict({**states[0]["model"], **states[1]["model"]})
    model.head.load_own_state(add_up([state["head"] for state in states]))
    other = Model(nc.quadratic, shard_classes=False)
    other.load_state_dict(Checkpoints(Path(folder) / "saved").load()["model"])
    assert torch.equal(other.head.weight, model.head.weight)
    train(model, [1], rank, world)
    keep(folder, "second", rank, world, model)


def end(folder, rank, world):
    """From the state of one process."""
    model, (state,) = Model(nc.quadratic), saved(folder, "second", 1)
    model.load_state_dict(state["model"])
    train(model, [2, 0], rank, world)
    return outcome(model)


def straight(rank, world):
    model = Model(nc.quadratic)
    train(model, [0, 1, 2, 0], rank, world)
    return outcome(model)


def of_its_own(model):
    return nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def clipped(rank, world, clip, sparse=True):
    model = Model(nc.quadratic, sparse=sparse)
    return {"norms": train(model, range(3), rank, world, clip), **outcome(model)}


def sent(rank, world):
    """Bytes of a step in float32, and the formula of docs/processes.md."""
    torch.manual_seed(0)
    tower, head = nn.Linear(5, 64), nc.SoftmaxHead(N, 64, num_samples=6, shard_classes=True)
    model = SHARE(nn.ModuleDict({"tower": tower, "head": head}))
    model.module.forward = lambda rows, target: head(tower(rows), target)
    mine = slice(rank * 50, rank * 50 + 50)
    before = head.table.shard.mesh.sent
    model(torch.randn(100, 5)[mine], torch.arange(100)[mine]).backward()
    encoded = sum(head.table.shard.mesh.each(head.report().encoded_grad)[0])
    b, every, dim, others = 50, 100, 65, world - 1
    asked = others * b * (4 * dim + 16 + 8) + others * 4 * every
    shared = 2 * others / world * (12 * every * 6 + 4 * dim * encoded)
    return {"measured": head.table.shard.mesh.sent - before, "formula": asked + shared}


def frozen(rank, world):
    """Features that no gradient goes to: the head trains without a wrapper."""
    model = Model()
    rows = batch(0, rank, world)
    with torch.no_grad():
        hidden = model.tower(rows["queries"])
    model.head(hidden, rows["target"]).backward()
    return {"rows": model.head.table.weight.grad.clone()}


def refusals(rank, early):
    """By name, on all processes; nobody waits for one that does another thing."""
    model, rows = Model(), batch(0, rank, 2)
    head = model.head
    refused(r"DDP\(the model that ends in the head\)", partial(model, **rows))
    refused("after init_process_group", partial(early, **MEETS))
    refused("after init_process_group", partial(early.topk, MEETS["hidden"], 3))
    embedding = nn.Embedding(N, D)
    refused("an embedding", partial(nc.SoftmaxHead.tied, embedding, shard_classes=True))
    table = nc.LiveTable(head.classes, shard=head.table.shard)
    loss = partial(nc.SoftmaxLoss, nn.Linear(D, D), torch.zeros(N, D))
    refused("SoftmaxHead", partial(loss, nc.CachedSoftmax(table, 5), nc.DotScore()))
    refused("at most 1 processes", partial(nc.SoftmaxHead, 100, D, shard_classes=True))
    with pytest.raises(RuntimeError, match="call the SoftmaxHead itself"):
        SHARE(nc.SoftmaxHead(N, D, shard_classes=True))
    another = partial(head, **MEETS) if rank else partial(head.topk, MEETS["hidden"], 3)
    refused("the same call", another)
    refused("topk on process 1; settings", partial(head.topk, MEETS["hidden"], 3 + rank))
    wrong = {**MEETS, "target": torch.tensor([1, N + rank - 1])}
    meant = "between 0 and" if rank else "a refusal on process 1"
    refused(meant, partial(head, **wrong))
    head._is_replica = True  # as nn.DataParallel says it
    refused("nn.DataParallel", partial(head, **MEETS))
    del head._is_replica
    state = Model(shard_classes=False).state_dict()
    own = {name: each for name, each in model.state_dict().items() if "rows" not in name}
    model.load_state_dict(state)
    part = {"inner.head.classes.weight.rows 128 to 256": torch.zeros(128, D + 1)}
    refused("without rows", partial(model.load_state_dict, own | part))
    longer = {
        f"inner.head.classes.weight.{name}": torch.zeros(128, D + 1)
        for name in (*head.table.shard.parts, "rows 700 to 828")
    }
    refused("rows up to 828", partial(model.load_state_dict, own | longer))
    broken = Model()
    with torch.no_grad():
        broken.head.classes.weight[rank, 0] = torch.nan
    target = {"target": torch.full_like(rows["target"], 0)}
    refused("NaN or inf in 1 of", partial(SHARE(broken), **rows | target))
    refused("clip_grad_norm_", partial(clipped, rank, 2, of_its_own, sparse=False))
    head.classes.weight.placements = ()  # as fully_shard would have it
    refused("ignored_params", partial(SHARE(model), **rows))


def main(folder, rank, world, phase):
    early = nc.SoftmaxHead(N, D, dtype=F64, shard_classes=True)
    with met(folder, rank, world):
        clip = partial(nc.clip_grad_norm_, max_norm=0.1)
        if phase == "end":
            found = {"ended": end(folder, rank, world)}
        else:
            found = {"clipped": clipped(rank, world, clip), "frozen": frozen(rank, world)}
        if phase == "begin":
            found["sent"] = sent(rank, world)
            begin(folder, rank, world)
            refusals(rank, early)
        elif phase == "go_on":
            found["straight"] = straight(rank, world)
            found["clipped_by_torch"] = clipped(rank, world, of_its_own, sparse=False)
            go_on(folder, rank, world)
    torch.save(found, f"{folder}/{phase}-{rank}-of-{world}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

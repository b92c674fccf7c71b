"""Heads whose classes are dealt out, in each process: ``python FILE FOLDER RANK WORLD [CASE]``."""

import sys
import warnings
from functools import partial

import torch
from processes import met
from roster import ROSTER
from sharded_settings import COLUMNS, F64, POSITIVES, QUERIES, linear, mine
from sharded_training import OTHER_DRAWS, STEPS, UNEQUAL, D, N
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import negcache as nc
import negcache.class_step

PADDING, SGD, SHARE = 3, torch.optim.SGD, DistributedDataParallel

REFUSED = ("index_tree", "grouped_top_k", "given")
"""By name: methods as they were printed, negatives of one process' rows."""

UNIT = {"normalize": True, "bias": False, "temperature": 0.3}

DRAWN = []
"""Of the sampler, ids of each step."""

EMPTY = torch.zeros(len(POSITIVES), dtype=torch.bool)
for _step in range(STEPS):
    EMPTY[12 * _step + UNEQUAL[2][0] * (_step % 2) : 12 * _step + (12 if _step % 2 else 7)] = True
"""Queries of the first of two processes, of the second, of the first again."""


class Inner(nn.Module):
    """A head below other modules."""

    def __init__(self, sampler, **settings):
        super().__init__()
        settings = {"dtype": F64, "shard_classes": True} | settings
        self.head = nc.SoftmaxHead(N, D, sampler, 6, **settings)


class Model(nn.Module):
    """A tower, and a head two floors down."""

    def __init__(self, sampler=None, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.tower, self.inner = linear(), Inner(sampler, **settings)

    @property
    def head(self):
        return self.inner.head

    def forward(self, queries, target=None, **more):
        return self.head(self.tower(queries), target, **more)


def batch(step, rank, world, names=()):
    """This process' rows of the global batch; the first has more."""
    found = {"queries": QUERIES, "target": POSITIVES}
    found |= {name: COLUMNS[name] for name in names if name in COLUMNS}
    found = {name: mine(each, step, rank, world) for name, each in found.items()}
    for name, column in (("several", "targets"), ("ignored", "target"), ("silent", "weight")):
        if name in found:
            found[column] = found.pop(name)
    if "targets" in found:
        found["target"] = None
    if "empty" in names:
        found = {name: each[~mine(EMPTY, step, rank, world)] for name, each in found.items()}
    return found


def noted(*asked):
    draws = noted.draw(*asked)
    DRAWN.append(draws[0][0].ids)
    return draws


noted.draw, negcache.class_step.draw_negatives = negcache.class_step.draw_negatives, noted


def train(
    build,
    rank,
    world,
    columns=(),
    optimizer=torch.optim.SGD,
    accumulated=1,
    wrap=DistributedDataParallel,
):
    """Draws, losses and gradients of some steps, the rows after them, and what is evaluated."""
    model = build()
    if model.head.table.renew_every:
        model.head.table.renew_every = 2
    found = {"begun": model.head.table.weight.detach().clone(), "losses": [], "gradients": []}
    wrapped = wrap(model) if world > 1 else model
    found |= {"drawn": [], "rows": []}
    optimizers = [optimizer([model.head.table.weight], 0.05)]
    optimizers.append(SGD(model.tower.parameters(), 0.05))
    for step in range(STEPS):
        DRAWN.clear()
        for _ in range(accumulated):
            loss = wrapped(**batch(step, rank, world, columns))
            loss.backward()
        found["losses"].append(loss.detach())
        found["drawn"].append(torch.cat(DRAWN))
        gradients = [whole(each.grad) for each in model.tower.parameters()]
        found["gradients"].append([model.head.table.weight.grad.to_dense(), *gradients])
        for each in optimizers:
            each.step()
            each.zero_grad()
        found["rows"].append(model.head.table.weight.detach().clone())
    return found | evaluate(model, rank, world, columns)


def evaluate(model, rank, world, columns):
    """What is exact: losses, log-probabilities, the best; and passes that leave no trace."""
    head, rows = model.head, batch(0, rank, world, columns)
    with torch.no_grad():
        model(**rows, reduction="none")
        head.eval()
        hidden = model.tower(rows["queries"])
        found = {"log_prob": head.log_prob(hidden), "exact": model(**rows, reduction="none")}
        found["scores"], found["best"] = head.topk(hidden, 300)
        head.train()
    sums = getattr(head.sampler, "sums", None)
    if sums is not None:
        head.table.flush()
        blocks = -(-head.table.num_rows // 128)
        found["sums"] = sums.levels[0][:blocks].clone()
        sums.invalidate()
        sums.build(head._queries(hidden.detach()), head.score.scale)
        found["summed_now"] = sums.levels[0][:blocks]
    return found


def case(
    sampler=None,
    columns=(),
    optimizer=torch.optim.SGD,
    accumulated=1,
    wrap=DistributedDataParallel,
    **settings,
):
    settings = {"temperature": 0.3} | settings
    return partial(
        train,
        partial(Model, sampler, **settings),
        columns=columns,
        optimizer=optimizer,
        accumulated=accumulated,
        wrap=wrap,
    )


def of_roster(entry):
    return lambda table, _: entry.build(table)


def rff(table, m):
    return nc.rf_softmax(table, m, num_frequencies=8, nu=3.0, floor=0.0)


ROSTERED = {
    entry.name: case(of_roster(entry), **(UNIT if entry.name == "rf_softmax" else {}))
    for entry in ROSTER
}

SETTINGS = {
    "default": case(),
    "rff": case(rff, **UNIT),
    "sparse": case(nc.quadratic, sparse=True),
    "sparse_adam": case(nc.quadratic, sparse=True, optimizer=torch.optim.SparseAdam),
    "adam": case(optimizer=torch.optim.Adam),
    "lagging": case(nc.quadratic, optimizer=torch.optim.Adam),
    "accumulated": case(nc.quadratic, accumulated=2),
    "no_bias": case(bias=False),
    "absolute": case(absolute=True),
    "padded": case(columns=["ignored"], padding_idx=PADDING),
    "padded_full": case(lambda table, _: nc.FullSoftmax(table), padding_idx=PADDING),
    "padded_last": case(nc.quadratic, columns=["ignored"], padding_idx=-1),
} | {
    f"{name}_{column}": case(sampler, [column])
    for name, sampler in (("cached", nc.CachedSoftmax), ("uniform", nc.Uniform))
    for column in ("ignored", "several", "weight", "silent", "empty")
}


def whole(tensor):
    """Of all processes, a copy."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def nested(model):
    """Every part by itself, then the model."""
    for part in (model.tower, model.inner):
        fully_shard(part)
    return fully_shard(model)


FSDP = {f"fsdp_{wrap.__name__}": case(wrap=wrap) for wrap in (fully_shard, nested)}

CASES = ROSTERED | SETTINGS | FSDP
OTHERS = [name for name in ROSTERED if name.endswith(OTHER_DRAWS)]
EXACT = [name for name in CASES if name not in (*OTHERS, *REFUSED)]


def main(folder, rank, world, *names):
    found = {}
    with met(folder, rank, world):
        for name in names or CASES:
            try:
                found[name] = CASES[name](rank, world)
            except nc.InputError as error:
                found[name] = str(error)
        torch.save(found, f"{folder}/{rank}-of-{world}.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])

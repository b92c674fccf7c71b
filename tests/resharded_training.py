"""Runs that go on from their newest checkpoint: ``python FILE FOLDER RANK WORLD STEPS [CASE ...]``.

Everything of a run is in float64, so that what differs is the order of sums alone.
"""

import sys
import warnings
from pathlib import Path

import torch
from processes import met
from sharded_training import CASES, batch
from torch.nn.parallel import DistributedDataParallel

from negcache.distributed import Mesh
from negcache.run.training import Checkpoints

NAMES = ["cached", "joined", "rest", "half_shared_cached", "quadratic", "low_shared_cached"]


def go_on(name, folder, mesh, steps):
    """So many steps more, then a checkpoint."""
    model = CASES[name]()
    loss_fn = model.loss_fn
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    kept = Checkpoints(folder, keep=9, mesh=mesh)
    state = kept.load(loss_fn.store.shard.has)
    step = 0 if state is None else state["step"]
    if state is not None:
        parts = model.query_tower, loss_fn.item_tower, loss_fn.score
        for part, saved in zip(parts, state["weights"], strict=True):
            part.load_state_dict(saved)
        loss_fn.load_own_state(state["own"])
        optimizer.load_state_dict(state["optimizer"])
    wrapped = DistributedDataParallel(model) if mesh.size > 1 else model
    for _ in range(steps):
        optimizer.zero_grad()
        wrapped(**batch(step % 3, mesh.rank, mesh.size))["loss"].backward()
        optimizer.step()
        loss_fn.step()
        step += 1
    weights = [each.state_dict() for each in (model.query_tower, loss_fn.item_tower, loss_fn.score)]
    own = {"own": loss_fn.own_state(), "optimizer": optimizer.state_dict()}
    kept.save(step, {"step": step, "weights": weights, **own})


def main(folder, rank, world, steps, *names):
    with met(folder, rank, world):
        for name in names or NAMES:
            go_on(name, Path(folder) / name, Mesh.now(), steps)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])

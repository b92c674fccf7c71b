"""Training over rows in a file, killed again and again: ``python FILE FOLDER KILLS SEED DTYPE``.

Each run is a fork of this process, so that it begins at once. Prints how many runs were killed.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

import negcache as nc
from negcache.run.training.checkpoint import Checkpoints

N, D, B, STEPS, EVERY = 600, 8, 16, 150, 7


def train(folder, dtype):
    """Go on from the newest checkpoint to the end; then all that has been learned, as a file."""
    torch.manual_seed(0)
    tower = torch.nn.Embedding(N, D)
    store = nc.DenseCache(N, D, refresh=0.02, dtype=dtype, path=folder / "rows")
    sampler = nc.SharedDraws(nc.CachedSoftmax(store, 2))
    loss_fn = nc.SoftmaxLoss(tower, torch.arange(N), sampler, nc.DotScore(0.2), seed=1)
    optimizer = torch.optim.Adam(tower.parameters(), 0.01)
    kept, step = Checkpoints(folder / "checkpoints"), 0
    if (state := kept.load()) is not None:
        tower.load_state_dict(state["tower"])
        optimizer.load_state_dict(state["optimizer"])
        loss_fn.load_own_state(state["own"])
        step = state["step"]
    while step < STEPS:
        random_of_step = torch.Generator().manual_seed(step)
        positives = torch.randint(N, (B,), generator=random_of_step)
        optimizer.zero_grad()
        loss_fn(
            tower(positives) + torch.randn(B, D, generator=random_of_step), positives
        ).backward()
        optimizer.step()
        loss_fn.step()
        step += 1
        if step % EVERY == 0:
            state = {"tower": tower.state_dict(), "optimizer": optimizer.state_dict()}
            kept.save(step, state | {"own": loss_fn.own_state(), "step": step})
    rows = store.rows(torch.arange(N)), store.table.written.clone(), tower.weight.detach()
    torch.save(rows, folder / "part")
    os.replace(folder / "part", folder / "learned")


def forked(folder, dtype):
    """Number of a process that trains."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        train(folder, dtype)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main(folder, kills, seed, dtype):
    folder, dtype, moments = Path(folder), getattr(torch, dtype), random.Random(int(seed))
    torch.set_num_threads(1)
    for name in ("straight", "killed"):
        (folder / name).mkdir()
    start = time.perf_counter()
    _, status = os.waitpid(forked(folder / "straight", dtype), 0)
    assert status == 0
    whole, killed = time.perf_counter() - start, 0
    while not (folder / "killed" / "learned").exists():
        child = forked(folder / "killed", dtype)
        if killed < int(kills):
            time.sleep(moments.uniform(0.05, 1.0) * whole / 3)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        killed += status == signal.SIGKILL
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])

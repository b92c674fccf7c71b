"""Training over rows in a file, killed again and again: ``python FILE FOLDER KILLS SEED DTYPE``.

Each run is a fork of this process, so that it begins at once, and tells the steps that it has made:
moments are steps and some milliseconds of chance, so that a slow machine does not change how many
runs are killed. Prints that number.
"""

import mmap
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
MADE = mmap.mmap(-1, 2)
"""Steps that a fork has made, those of its checkpoint too, plus 1; 0: it has not begun."""


def made():
    return int.from_bytes(MADE[:], "little") - 1


def tell(step):
    MADE[:] = (step + 1).to_bytes(2, "little")


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
    tell(step)
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
        tell(step)
    rows = store.rows(torch.arange(N)), store.table.written.clone(), tower.weight.detach()
    torch.save(rows, folder / "part")
    os.replace(folder / "part", folder / "learned")


def forked(folder, dtype):
    """Number of a process that trains."""
    tell(-1)
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


def wait(moments):
    """Until some steps have been made since it began, or none, and a little longer."""
    steps, longer = moments.randrange(-1, 10), moments.uniform(0, 0.02)
    if steps >= 0:
        while (begun := made()) < 0:
            time.sleep(0.0005)
        while made() < min(begun + steps, STEPS):
            time.sleep(0.0005)
    time.sleep(longer)


def main(folder, kills, seed, dtype):
    folder, dtype, moments = Path(folder), getattr(torch, dtype), random.Random(int(seed))
    torch.set_num_threads(1)
    for name in ("straight", "killed"):
        (folder / name).mkdir()
    _, status = os.waitpid(forked(folder / "straight", dtype), 0)
    assert status == 0
    killed = 0
    while not (folder / "killed" / "learned").exists():
        child = forked(folder / "killed", dtype)
        if killed < int(kills):
            wait(moments)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        killed += status == signal.SIGKILL
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])

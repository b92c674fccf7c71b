"""How many bytes does a process send a step, and how much of the store does it hold?

    python -m benchmarks.shard_traffic

1, 2 and 4 processes (gloo, one thread each) train two linear towers, D = 64, on batches of 128 in
all: draws of the whole batch joined by its positives, and four draws of each query. ``sent``: what
the ``Mesh`` counts in the third step, forward, backward and refresh; of all processes the most.
``formula``: what the design allows for the items that this step encoded; ``planned``: what
``negcache plan`` counts for them. DDP's own bytes do not pass through the Mesh and stand in none of
the three. ``held``: bytes of the store of a process, of all the most. N = 1,000,000 sends what
N = 10,000 does. Resumable per (draws, items, processes).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import negcache as nc
from benchmarks.record import append_rows, conclude, hardware, read_rows
from benchmarks.rows import embeddings
from negcache.run.cli.planning.traffic import Processes

NAME, D, FEATURES, BATCH, STEPS = "shard_traffic", 64, 8, 128, 3
SIZES, WORLDS, EACH = (10_000, 1_000_000), (1, 2, 4), 4


def joined(store: nc.DenseCache) -> nc.SharedDraws:
    """A draw of each query for all, and the batch's positives; all items are as popular."""
    log_popularity = -torch.tensor(float(store.num_items)).log().expand(store.num_items)
    return nc.SharedDraws(nc.CachedSoftmax(store, 1), log_popularity=log_popularity)


DRAWS: dict[str, Callable[[nc.DenseCache], Any]] = {
    "joined": joined,
    "each": lambda store: nc.CachedSoftmax(store, EACH),
}


def measured(draws: str, items: int, rank: int, world: int) -> dict[str, int]:
    """In each process: bytes sent in the last step, items encoded in it, bytes of the store."""
    torch.manual_seed(0)
    towers = [nn.Linear(FEATURES, D) for _ in range(2)]
    corpus = torch.randn(items, FEATURES)
    store = nc.DenseCache(items, D, refresh=256 / items)
    loss_fn = nc.SoftmaxLoss(towers[0], corpus, DRAWS[draws](store), nc.DotScore(0.05))
    model = nc.Retriever(loss_fn, towers[1])
    wrapped = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = encoded = 0
    for _ in range(STEPS):
        before = store.shard.mesh.sent
        positives = torch.randint(items, (BATCH,))[rank * BATCH // world :][: BATCH // world]
        optimizer.zero_grad()
        wrapped(corpus[positives], positives)["loss"].backward()
        optimizer.step()
        loss_fn.step()
        encoded = loss_fn.report().encoded_grad
    held = embeddings(store).nbytes + store.table.written.nbytes
    return {"sent": store.shard.mesh.sent - before, "encoded": encoded, "held": held}


def one(folder: Path, draws: str, items: int, rank: int, world: int) -> None:
    """A process of several."""
    torch.set_num_threads(1)
    if world > 1:
        meet = f"file://{folder}/meet"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    (folder / f"{rank}.json").write_text(json.dumps(measured(draws, items, rank, world)))
    if world > 1:
        dist.destroy_process_group()


def formula(draws: str, world: int, encoded: int) -> float:
    """Bytes that a process sends a step, without DDP's, as the design counted them.

    (K - 1) (4 b D + 8 E + 8 (b + 1) + 16 b) of requests, (1 - 1/K) 32 b m of draws of each query or
    (K - 1) (M / K) 20 of shared ones, and 2 (K - 1) (M / K) 4 D of embeddings and their gradients;
    E = b: each query may not draw its positive.
    """
    own, others = BATCH / world, world - 1
    asked = others * (4 * own * D + 8 * own + 8 * (own + 1) + 16 * own)
    shared = others / world * encoded * 20
    drawn = shared if draws == "joined" else others / world * own * EACH * 32
    return asked + drawn + 2 * others / world * encoded * 4 * D


def planned(draws: str, world: int, encoded: int) -> int:
    """The same as ``negcache plan`` counts it."""
    every = Processes(world, BATCH, D)
    chances = every.chances(encoded) + every.own_draws(1)
    drawn = chances if draws == "joined" else every.own_draws(EACH)
    return every.requests() + every.masses() + drawn + every.embeddings(encoded)


def measure(draws: str, items: int, world: int) -> None:
    """All processes of a world at once; a finished world is not run again."""
    key = {"draws": draws, "items": items, "processes": world}
    told = [str(value) for value in key.values()]
    if told in ([row[name] for name in key] for row in read_rows(NAME)):
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"benchmarks.{NAME}", "--one", folder, draws, str(items)]
        alive = [subprocess.Popen([*command, str(rank), str(world)]) for rank in range(world)]
        ends = [process.wait() for process in alive]
        if any(ends):
            raise SystemExit(f"a process of {key} failed: start again")
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world)]
    encoded = sum(each["encoded"] for each in found)
    row: dict[str, Any] = key | {"encoded": encoded}
    row |= {name: max(each[name] for each in found) for name in ("sent", "held")}
    row |= {"formula": round(formula(draws, world, encoded))}
    row |= {"planned": planned(draws, world, encoded)}
    append_rows(NAME, [row | hardware() | {"threads": 1}])
    print(*list(row.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ("FOLDER", "DRAWS", "N", "RANK", "WORLD")
    parser.add_argument("--one", nargs=5, metavar=names, help="be one of the processes")
    options = parser.parse_args()
    if options.one:
        folder, draws, items, rank, world = options.one
        one(Path(folder), draws, int(items), int(rank), int(world))
        return
    for items in SIZES:
        for draws in DRAWS:
            for world in WORLDS:
                measure(draws, items, world)
    rows = read_rows(NAME)
    several = [row for row in rows if int(row["processes"]) > 1]
    alone = {row["items"]: int(row["held"]) for row in rows if int(row["processes"]) == 1}
    figures = {
        f"{name}_ratio": max(int(row["sent"]) / int(row[against]) for row in several)
        for name, against in (("bytes", "formula"), ("planned_bytes", "planned"))
    }
    figures["memory_ratio"] = max(
        int(row["processes"]) * int(row["held"]) / alone[row["items"]] for row in rows
    )
    conclude(NAME, {name: round(value, 3) for name, value in figures.items()})


if __name__ == "__main__":
    main()

"""Two processes draw what one draws: real ones, joined by gloo."""

import os
import subprocess
import sys

import torch

SCRIPT = """
import sys, torch, torch.distributed as dist, negcache as nc
torch.set_num_threads(1)
folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if world > 1:
    meet = f"file://{folder}/meet{world}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
torch.manual_seed(0)
corpus, queries, positives = torch.randn(200, 4), torch.randn(8, 4), torch.arange(8)
loss_fn = nc.SoftmaxLoss(torch.nn.Linear(4, 4), corpus, nc.Uniform(corpus, 5), nc.DotScore())
draws, own = [], loss_fn.sampler.draw
loss_fn.sampler.draw = lambda *a: draws.append(own(*a)) or draws[-1]
mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
for _ in range(3):
    loss_fn(queries[mine], positives[mine])
torch.save([d.ids[d.columns] for d in draws], f"{folder}/drawn-{rank}-of-{world}.pt")
if world > 1:
    try:
        cache = nc.DenseCache(200, 4)
        nc.SoftmaxLoss(torch.nn.Linear(4, 4), corpus, nc.CachedSoftmax(cache, 1), nc.DotScore())
    except nc.InputError as error:
        assert "one process" in str(error)
    else:
        raise AssertionError("a cached sampler needs one process")
"""


def run(folder, world):
    alive = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(rank), str(world)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]
    assert [process.wait(120) for process in alive] == [0] * world
    parts = [torch.load(folder / f"drawn-{rank}-of-{world}.pt") for rank in range(world)]
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def test_two_processes_draw_what_one_draws(tmp_path):
    for one, two in zip(run(tmp_path, 1), run(tmp_path, 2), strict=True):
        assert torch.equal(one, two)

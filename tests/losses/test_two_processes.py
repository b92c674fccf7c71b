"""Two processes draw what one draws; a store of one is refused: real ones, joined by gloo."""

import processes
import torch

SCRIPT = """
import sys, torch, negcache as nc
from negcache.distributed import Mesh
from processes import met
from setting import Watched
folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with met(folder, rank, world):
    torch.manual_seed(0)
    corpus, queries, positives = torch.randn(200, 4), torch.randn(8, 4), torch.arange(8)
    sampler = Watched(nc.Uniform(corpus, 5))
    apart = {"gather_across_devices": False}  # each process' own draws are watched
    loss_fn = nc.SoftmaxLoss(torch.nn.Linear(4, 4), corpus, sampler, nc.DotScore(), **apart)
    mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
    model = nc.Retriever(loss_fn, torch.nn.Identity())
    model = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    for _ in range(3):
        model(queries[mine], positives[mine])["loss"].backward()
    gradient = [loss_fn.item_tower.weight.grad.clone()]
    torch.manual_seed(0)
    head = nc.SoftmaxHead(200, 4, lambda table, m: Watched(nc.Uniform(table, m)), 5)
    inside = torch.nn.parallel.DistributedDataParallel(head) if world > 1 else head
    for _ in range(3):
        inside(queries[mine], positives[mine]).backward()
    drawn = [*sampler.draws, *head.sampler.draws]
    torch.save([d.ids[d.columns] for d in drawn], f"{folder}/drawn-{rank}-of-{world}.pt")
    torch.save(gradient, f"{folder}/gradient-{rank}-of-{world}.pt")
    if world > 1:
        store = nc.DenseCache(200, 4, mesh=Mesh())
        raw = nc.SoftmaxLoss(torch.nn.Linear(4, 4), corpus, nc.Uniform(corpus, 5), nc.DotScore())
        try:
            raw(queries[mine], positives[mine])
        except nc.InputError as error:
            assert "DDP(negcache.Retriever" in str(error)
        else:
            raise AssertionError("gradients that stay with one process")
        with torch.no_grad():
            raw(queries[mine], positives[mine])  # an evaluation has none
        inside = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
        below = nc.SoftmaxLoss(inside, corpus, nc.Uniform(corpus, 5), nc.DotScore())
        below(queries[mine], positives[mine])
        tower = torch.nn.Linear(4, 4).requires_grad_(False)
        kept = nc.SoftmaxLoss(tower, corpus, nc.CachedSoftmax(store, 1), nc.DotScore())
        try:
            kept(queries[mine], positives[mine])
        except nc.InputError as error:
            assert "a store shared by the 2 processes" in str(error)
        else:
            raise AssertionError("a store of one process among two")
        assert not store.valid.any(), "refused before anything was encoded"
"""


def run(folder, world):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    processes.run(script, folder, world)
    parts = [torch.load(folder / f"drawn-{rank}-of-{world}.pt") for rank in range(world)]
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def test_two_processes_draw_what_one_draws_and_share_its_gradient(tmp_path):
    for one, two in zip(run(tmp_path, 1), run(tmp_path, 2), strict=True):
        assert torch.equal(one, two)
    of_one, *of_two = (
        torch.load(tmp_path / f"gradient-{which}.pt")[0] for which in ("0-of-1", "0-of-2", "1-of-2")
    )
    for gradient in of_two:
        torch.testing.assert_close(gradient, of_one)

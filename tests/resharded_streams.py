"""Streams into caches side by side: ``python FILE FOLDER RANK WORLD WORD ...``.

A word is ``STORE/PLACE:LEGS``, or "laws". A leg is so many steps from the newest checkpoint of the
place, and another checkpoint. Everything is in float64, so that what differs among numbers of
processes is the order of sums alone.
"""

import sys
import warnings
from pathlib import Path

import torch
from processes import met
from sharded_training import D, normal
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import negcache as nc
from negcache.distributed import Mesh
from negcache.draws import draw
from negcache.exclusion import Exclusion
from negcache.messages import Request
from negcache.run.training import Checkpoints
from negcache.stores import SideBySide
from negcache.testing.conformance import check_sampler

F64 = torch.float64
ITEMS, PAIRS, NEWS = 2_000, 120, 160
SIZES = (300, 520)
"""Three parts and five, each with a last one that is no whole block; items leave from step 3 on."""
FEATURES = normal(ITEMS, 6, seed=5)
IDS = 5 + 2**40 * torch.arange(ITEMS)


def beside(folder=None, weights=("dedup", "none")):
    """Pairs, and news."""
    paths = [None if folder is None else folder / name for name in ("pairs", "news")]
    each = zip(SIZES, weights, paths, strict=True)
    settings = {"refresh": 0.05, "dtype": F64}
    return SideBySide(
        [
            nc.StreamingCache(size, D, row_weight=weight, path=path, **settings)
            for size, weight, path in each
        ]
    )


STORES = {"memory": lambda _: beside(), "files": beside}


class Training:
    """Two towers over both caches, which a loop goes on with."""

    def __init__(self, folder, store, mesh):
        torch.manual_seed(0)
        self.mesh, self.store, self.losses, self.step = mesh, store(folder), [], 0
        query_tower, item_tower = (nn.Linear(6, D, dtype=F64) for _ in range(2))
        sampler = nc.SharedDraws(nc.CachedSoftmax(self.store, 2))
        score = nc.DotScore(0.3).double()
        self.loss_fn = nc.SoftmaxLoss(item_tower, self.store, sampler, score)
        self.model = nc.Retriever(self.loss_fn, query_tower)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 0.01)
        self.loss_fn.step_with(self.optimizer)
        self.kept = Checkpoints(folder / "checkpoints", keep=9, mesh=mesh)
        self.parts = query_tower, item_tower, self.optimizer

    def load(self):
        state = self.kept.load(self.store.shard.has)
        if state is not None:
            self.step = state["step"]
            self.loss_fn.load_own_state(state["own"])
            for part, saved in zip(self.parts, state["parts"], strict=True):
                part.load_state_dict(saved)

    def save(self):
        parts = [part.state_dict() for part in self.parts]
        own = self.loss_fn.own_state()
        self.kept.save(self.step, {"step": self.step, "own": own, "parts": parts})

    def go_on(self, steps):
        wrapped = DistributedDataParallel(self.model) if self.mesh.size > 1 else self.model
        for _ in range(steps):
            noise = torch.Generator().manual_seed(self.step)
            for into, count in enumerate((NEWS, PAIRS)):  # the pairs last
                seen = torch.randint(ITEMS, (count,), generator=noise)[self.mesh.part(count)]
                self.store.receive(IDS[seen], FEATURES[seen], into=1 - into)
            self.optimizer.zero_grad()
            loss = wrapped(queries=FEATURES[seen] * 1.1, positives=IDS[seen])["loss"]
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.detach())
            self.step += 1

    def found(self):
        """What the rows here are, and what all processes draw from those of all."""
        slots = torch.arange(self.store.num_rows)
        weights = [each.detach().clone() for each in self.model.parameters()]
        ids, rows, valid = self.store.ids(slots), self.store.rows(slots), self.store.valid
        log_weights = self.store.log_weights
        found = {"ids": ids, "rows": rows, "valid": valid, "log_weights": log_weights}
        found |= {"weights": weights, "losses": torch.stack(self.losses)}
        drawn = draw(nc.CachedSoftmax(self.store, 3), REQUEST, torch.Generator().manual_seed(1))
        return found | {"drawn": drawn.ids[drawn.columns], "log_weight": drawn.log_weight}


def request(ids, queries):
    exclude = Exclusion.from_pairs(torch.arange(len(ids)), ids, len(ids))
    score = nc.DotScore(0.3).double().requires_grad_(False)
    return Request(score.embed(queries), score, ids, exclude)


REQUEST = request(IDS[:9], normal(9, D, seed=8))


def obey(mesh):
    """The laws of samplers: the softmax over the rows of all processes, which are all items."""
    group, count = beside(weights=("none", "none")), sum(SIZES)
    items, ids = normal(count, D, seed=7), torch.arange(count)
    for into, its in enumerate(ids.split(SIZES)):
        group.receive(its[mesh.part(len(its))], items[its[mesh.part(len(its))]], into=into)
    group.commit()
    group.write(ids, items)
    check_sampler(nc.CachedSoftmax(group, 3), request(ids[:4], items[50:54]), items, rounds=50)


def main(folder, rank, world, *words):
    with met(folder, rank, world):
        mesh = Mesh.now()
        for word in words:
            if word == "laws":
                obey(mesh)
                continue
            place, legs = word.split(":")
            there = Path(folder) / place
            there.mkdir(parents=True, exist_ok=True)
            for steps in map(int, legs.split(",")):
                training = Training(there, STORES[Path(place).parts[0]], mesh)
                mesh.objects(None)  # all have their files
                training.load()
                training.go_on(steps)
                training.save()
                torch.save(training.found(), there / f"{training.step}, {rank} of {world}")
                del training


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])

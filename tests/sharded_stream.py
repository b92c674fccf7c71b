"""A cache of a stream among some processes: what one receives all receive."""

import torch
from sharded_training import D, normal
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import negcache as nc
from negcache.distributed import Mesh

F64 = torch.float64
ITEMS, SIZE, BATCH, MORE, STEPS = 2_000, 300, 40, 60, 6
IDS = 5 + 2**40 * torch.arange(ITEMS)


class Model(nn.Module):
    """Two towers over a stream of few slots: items leave from the fourth step on."""

    def __init__(self, row_weight, eviction):
        super().__init__()
        torch.manual_seed(0)
        self.query_tower, item_tower = (nn.Linear(6, D, dtype=F64) for _ in range(2))
        cache = nc.StreamingCache(
            SIZE, D, refresh=0.1, eviction=eviction, row_weight=row_weight, dtype=F64
        )
        sampler = nc.SharedDraws(nc.CachedSoftmax(cache, 2))
        self.loss_fn = nc.SoftmaxLoss(item_tower, cache, sampler, nc.DotScore(0.3))

    def forward(self, queries, positives):
        return self.loss_fn(self.query_tower(queries), positives)


def stream(rank, world):
    """Losses, weights after some steps, and the cache, for two settings."""
    return [play(*each, world) for each in SETTINGS]


SETTINGS = (("dedup", "fifo"), ("none", "least_recently_refreshed"))


def play(row_weight, eviction, world):
    features, mesh = normal(ITEMS, 6, seed=5), Mesh.now()
    model = Model(row_weight, eviction)
    wrapped = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model.loss_fn.step_with(optimizer)
    cache, losses = model.loss_fn.corpus, []
    for step in range(STEPS):
        noise = torch.Generator().manual_seed(step)
        seen = torch.randint(ITEMS, (BATCH,), generator=noise)[mesh.part(BATCH)]
        more = torch.randint(ITEMS, (MORE,), generator=noise)[mesh.part(MORE)]
        cache.receive(IDS[seen], features[seen])
        cache.receive(IDS[more], features[more])
        optimizer.zero_grad()
        loss = wrapped(features[seen] * 1.1, IDS[seen])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    everything = torch.arange(cache.num_rows)
    return {
        "losses": torch.stack(losses),
        "weights": [each.detach().clone() for each in model.parameters()],
        "held": cache.ring.held,
        "rows": cache.rows(everything),
        "written": cache.table.written,
        "log_weights": cache.log_weights,
    }

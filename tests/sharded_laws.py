"""Laws of proposals in each of some processes: what ``sharded_settings`` finds of them."""

import torch
from sharded_training import GLOBAL, STEPS, D, N, normal

import negcache as nc
import negcache.contrib
from negcache.draws import propose
from negcache.indexes.clusters import KMeansClusters
from negcache.messages import Request

F64 = torch.float64


def golden(rank, world):
    """NC-10: shards {1, 2} and {-1, -2}, two queries on each process, scalar embeddings."""
    store, score = nc.DenseCache(256, 1, dtype=F64), nc.DotScore(1.0, normalize=False).double()
    ids, rows = torch.tensor([0, 1, 128, 129]), torch.tensor([1.0, 2, -1, -2], dtype=F64)
    store.write(ids, rows[:, None])
    queries = torch.tensor([[[-1.0], [1]], [[1], [1]]], dtype=F64)
    queries = queries.flatten(0, 1) if world == 1 else queries[rank]
    positives = torch.full((len(queries),), 2)  # of no row: none is excluded
    exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(len(queries)), positives, len(queries))
    request, here = Request(queries, score, positives, exclude).gathered(store.shard.mesh)
    proposal = propose(nc.CachedSoftmax(store, 1), request, torch.Generator())
    picks = torch.tensor([[0.02, 0], [0.97, 0.999], [0.5, 0], [0.97, 0.999]], dtype=F64)
    drawn, _ = proposal.draw(lambda *_: picks[:, None])  # the shard, then the row
    masses = proposal.masses
    return {
        "masses": None if masses is None else masses.log_masses,
        "log_z": (proposal.proposal.log_mass if masses is None else masses.log_total)[here],
        "queries": queries,
        "drawn": rows[torch.searchsorted(ids, drawn)][here],
    }


def floor(rank, world):
    """The law of random features with uniform draws beside them, some rows not written."""
    rows, positives = STEPS * GLOBAL, torch.arange(STEPS * GLOBAL)
    store, score = nc.DenseCache(N, D, dtype=F64), nc.DotScore(0.3).double()
    store.write(torch.arange(0, N, 2), score.embed(normal(N // 2, D, seed=4)))
    exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(rows), positives, rows)
    queries = score.embed(normal(rows, D, seed=6))
    sampler = nc.rf_softmax(store, 1, num_frequencies=8, nu=3.0, floor=0.3)
    request = Request(queries, score, positives, exclude)
    return {"log_q": propose(sampler, request, torch.Generator()).log_prob(torch.arange(N))}


def mined(rank, world):
    """A cluster on each process, the nearest one of each query alone."""
    store, score = nc.DenseCache(256, 2, dtype=F64), nc.DotScore(1.0, normalize=False).double()
    store.write(torch.arange(256), torch.eye(2, dtype=F64).repeat_interleave(128, dim=0))
    nothing = torch.empty(0, dtype=torch.int64)
    exclude = nc.exclusion.Exclusion.from_pairs(nothing, nothing, 2)
    request = Request(torch.eye(2, dtype=F64), score, torch.tensor([0, 128]), exclude)
    index, settings = KMeansClusters(1), {"chain": 1, "top_clusters": 1}
    sampler = nc.contrib.DynamicIndexMiner(store, 20, index=index, **settings)
    drawn = sampler.draw(request, torch.Generator().manual_seed(0))
    return {"process": drawn.ids[drawn.columns] // 128}

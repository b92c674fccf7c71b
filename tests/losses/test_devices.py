"""``.to(device)``: every tensor of store, sampler and index goes along; "meta" stands for a GPU."""

import gc

import pytest
import torch
from roster import ROSTER
from setting import D, N
from torch import nn

import negcache as nc
from negcache.indexes.sg_tree import TreeClusters


def tensors_below(thing):
    """Every tensor that can be reached, by the garbage collector's own references."""
    found, seen, ahead = [], set(), [thing]
    while ahead:
        one = ahead.pop()
        if id(one) in seen or isinstance(one, type) or type(one).__name__ in ("module", "function"):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found.append(one)
        elif not isinstance(one, torch.Generator):
            ahead += gc.get_referents(one)
    return found


def trained(build):
    torch.manual_seed(0)
    corpus, store = torch.randn(N, D, dtype=torch.float64), nc.DenseCache(N, D, dtype=torch.float64)
    tower = nn.Linear(D, D).double()
    loss_fn = nc.SoftmaxLoss(tower, corpus, build(store), nc.DotScore())
    rows = torch.arange(5)  # as many as the roster's own negatives
    for _ in range(2):
        loss_fn(corpus[:5], rows).backward()
        loss_fn.step()
    return loss_fn


@pytest.mark.parametrize(
    "case", [c for c in ROSTER if "fresh" not in c.refuses], ids=lambda c: c.name
)
def test_all_that_a_sampler_holds_moves(case):
    loss_fn = trained(case.build)
    before = len(tensors_below(loss_fn.sampler))
    loss_fn.to("meta")
    stayed = [one for one in tensors_below(loss_fn.sampler) if one.device.type != "meta"]
    assert len(tensors_below(loss_fn.sampler)) == before
    whole = (torch.int32, torch.int64, torch.bool)
    assert all(one.dtype in whole for one in stayed)  # members of clusters, on_host
    assert len(stayed) <= 8


def test_precision_is_the_towers_own_and_no_move():
    loss_fn = trained(lambda store: nc.quadratic(store, 4))
    rows = loss_fn.store.table.embeddings
    loss_fn.float()
    assert loss_fn.item_tower.weight.dtype == torch.float32
    assert loss_fn.store.table.embeddings is rows
    loss_fn.to("cpu")
    assert loss_fn.store.table.embeddings is rows


def test_coordinates_and_labels_stay_in_ordinary_memory():
    store = nc.LowRankCache(N, D, landmarks=4)
    for index in (None, TreeClusters()):
        sampler = nc.DynamicIndex(store, 3, index=index)
        loss_fn = nc.SoftmaxLoss(nn.Linear(D, D), torch.randn(N, D), sampler, nc.DotScore())
        loss_fn(torch.randn(4, D), torch.arange(4))
        loss_fn.to("meta")
        held = sampler.clusters.index
        assert (held.cells.labels if index is None else held.changed).device.type == "cpu"
        assert store.table.stored.device.type == "cpu"
        assert store.table.device.type == store.basis.device.type == "meta"
        store = nc.LowRankCache(N, D, landmarks=4)


def test_a_head_takes_its_sums_along():
    head = nc.SoftmaxHead(400, D, nc.quadratic, 5)
    head(torch.randn(4, D), torch.arange(4)).backward()
    assert head.sampler.sums.levels[0].device.type == "cpu"
    head.to("meta")
    assert head.sampler.sums.levels[0].device.type == "meta"
    assert head.table.valid.device.type == "meta"


@pytest.mark.parametrize("kind", ["loss", "head"])
def test_replicas_of_data_parallel_are_refused(kind):
    """Its threads would share one generator and one store."""
    corpus = torch.randn(N, D)
    loss_fn = nc.SoftmaxLoss(nn.Linear(D, D), corpus, nc.Uniform(corpus, 3), nc.DotScore())
    module = loss_fn if kind == "loss" else nc.SoftmaxHead(N, D)
    batch = torch.randn(4, D), torch.arange(4)
    with pytest.raises(nc.InputError, match=r"a replica that nn\.DataParallel made"):
        module._replicate_for_data_parallel()(*batch)
    assert module(*batch).isfinite()

"""What a batch may hold: ids of any width, each positive once, known positives of this corpus."""

from functools import partial

import pytest
import torch
from setting import B, D, N, Setting

import negcache as nc

WIDTHS = [torch.int16, torch.int32]


def rows_of_two():
    """Two positives a query, the second padding for every other."""
    positives = torch.stack([torch.arange(B), torch.arange(100, 100 + B)], dim=1)
    positives[::2, 1] = -1
    return positives


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "sampler",
    [
        lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 2)),
        lambda store: nc.InBatch(torch.full((N,), 1 / N).log()),
    ],
    ids=["shared", "in_batch"],
)
def test_narrow_ids_are_as_good_as_wide_ones(sampler, dtype, several):
    """Value, gradient and known positives: as with int64, bit by bit."""
    positives = rows_of_two() if several else torch.arange(B)
    negatives = torch.randint(3 * B, N, (B, 3), generator=torch.Generator().manual_seed(1))
    values = []
    for width in (torch.int64, dtype):
        setting = Setting(sampler)
        queries = setting.query_tower(torch.randn(B, D, generator=setting.data))
        ids = [x.to(width) for x in (positives, torch.arange(B), negatives)]
        loss = setting.loss(queries, *ids)
        loss.backward()
        values.append((loss.detach(), setting.query_tower.weight.grad))
    for wide, narrow in zip(*values, strict=True):
        assert torch.equal(wide, narrow)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", WIDTHS)
def test_a_head_takes_narrow_targets_and_counts_a_repeated_one_once(dtype, training):
    hidden = torch.randn(4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = torch.tensor([[3, 7], [5, -1], [9, 1], [0, 2]])
    again = torch.cat([once, once[:, :1], once[:, :1]], dim=1).to(dtype)
    values = []
    for target in (once, again):
        torch.manual_seed(0)
        head = nc.SoftmaxHead(40_000, D, nc.Uniform, 5, dtype=torch.float64).train(training)
        values.append(head(hidden, targets=target).detach())
    torch.testing.assert_close(*values, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["positives", "query_ids", "negatives"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_flags_are_no_ids(name, dtype):
    setting = Setting(nc.FullSoftmax)
    call = {
        "queries": torch.randn(B, D),
        "positives": torch.arange(B),
        "query_ids": torch.arange(B),
        "negatives": torch.zeros(B, 2, dtype=torch.long),
    }
    forward = getattr(nc.SoftmaxLoss.forward, "__wrapped__", nc.SoftmaxLoss.forward)
    with pytest.raises(nc.InputError, match=f"{name} as ids; got {dtype}"):
        forward(setting.loss, **call | {name: call[name].to(dtype)})


@pytest.mark.parametrize(
    "sampler", [nc.FullSoftmax, lambda store: nc.InBatch(), lambda store: nc.CachedRest(store, 20)]
)
def test_a_positive_that_a_row_repeats_counts_once(sampler):
    once = torch.tensor([[b, 100 + b, -1, -1] for b in range(B)])
    again = torch.tensor([[b, 100 + b, b, b] for b in range(B)])
    one, other = Setting(sampler), Setting(sampler)
    for _ in range(2):
        torch.testing.assert_close(one.step(positives=once), other.step(positives=again))


@pytest.mark.parametrize(
    "sampler",
    [lambda store: nc.Uniform(store, 4), partial(nc.CachedSoftmax, num_negatives=4)],
    ids=["uniform", "cached"],
)
def test_known_positives_beyond_the_corpus_are_refused_by_their_ids(sampler):
    setting = Setting(sampler)
    queries = torch.cat([torch.arange(B), torch.tensor([0, 0, 5])])
    items = torch.cat([torch.arange(B), torch.tensor([N, N + 7, N + 7])])
    setting.loss.known_positives = nc.KnownPositives.from_pairs(queries, items)
    with pytest.raises(nc.InputError, match=r"between 0 and 299; got 2 other ids, \[300, 307\]"):
        setting.forward()


def evaluated(setting, batches=3):
    """One evaluation over the same queries again and again: its values."""
    setting.loss.eval()
    queries = torch.randn(B, D, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        losses = [setting.loss(queries, torch.arange(B), torch.arange(B)) for _ in range(batches)]
    setting.loss.train()
    return torch.stack(losses)


def test_batches_of_an_evaluation_have_noise_of_their_own_and_the_next_one_has_it_again():
    one, other = (Setting(lambda store: nc.Uniform(store, 4)) for _ in range(2))
    first = evaluated(one)
    assert len(first.unique()) == len(first), "every batch has noise of its own"
    assert torch.equal(evaluated(one), first), "an unchanged model has the same values"
    assert torch.equal(one.step(), other.step()), "training is left alone"
    assert not torch.equal(evaluated(one), first)


def test_a_loaded_state_decides_the_noise_of_evaluation_too():
    one, other = (Setting(lambda store: nc.Uniform(store, 4), seed=s) for s in (0, 1))
    one.step()
    other.corpus.copy_(one.corpus)
    other.loss.eval()
    other.load(one.state())
    queries = torch.randn(B, D, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        value = other.loss(queries, torch.arange(B), torch.arange(B))
    assert torch.equal(value, evaluated(one, 1)[0])

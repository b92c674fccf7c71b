"""A loss over a stream is looked at as one over a corpus of the same items is."""

import pytest
import torch
from asking import B, D, N, asked, plain, stale_loss
from torch import nn

import negcache as nc
from negcache.diagnosis import Beside, ItemsInMemory, Settings, diagnose
from negcache.diagnosis.items import FreshItems, ItemSample
from negcache.packing import pack
from negcache.samplers import CachedDistinct, HeadTail

IDS = torch.arange(N).square() * 2**48 + 5
"""Ids that a stream may have, in the order of the numbers of a corpus."""


def streamed(dense, kept, size=None, sampler=None, **settings):
    """The same tower, items and rows, of which the last ``kept`` came."""
    size = kept if size is None else size
    cache = nc.StreamingCache(size, D, refresh=0.1, **settings)
    cache.receive(IDS[-kept:], dense.corpus[-kept:])
    rows = dense.store.rows(torch.arange(N))[-kept:]
    cache.commit()
    cache.write(IDS[-kept:], rows)
    cache.step()
    build = sampler or (lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 2)))
    return nc.SoftmaxLoss(dense.item_tower, cache, build(cache), dense.score)


def every(dense):
    """All items, in another order, some of them twice."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    order = torch.cat([order, order[:7]])
    return ItemsInMemory(IDS[order], dense.corpus[order])


def alone(dense):
    """Without known positives, which streams have none of."""
    dense.known_positives = None
    return dense


@pytest.fixture
def dense():
    return alone(stale_loss())


def queries_of():
    queries, positives, _ = asked()
    return queries, positives


def look(loss, dense, *, settings=None, **beside):
    queries, positives = queries_of()
    beside = Beside(items=every(dense), **beside)
    return diagnose(loss, queries, IDS[positives], settings=settings or plain(8), beside=beside)


def softmax(dense):
    """Over the negatives, [B, N], in float64, by hand."""
    queries, positives = queries_of()
    with torch.no_grad():
        rows = dense.item_tower.eval()(dense.corpus)
        dense.item_tower.train()
    scores = dense.score(dense.score.embed(queries), dense.score.embed(rows)).detach()
    scores[torch.arange(B), positives] = -torch.inf
    return scores.softmax(dim=1)


def test_a_cache_of_all_items_is_what_a_dense_cache_is(dense):
    """Draws, laws, staleness and the exact softmax: figure by figure."""
    found = look(streamed(dense, N), dense, settings=Settings(8))
    expected = diagnose(dense, *queries_of(), settings=Settings(8))
    assert (found.num_items, found.sampled, found.coverage.share) == (N, N, 1.0)
    assert found.reach == ""
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    for name in ("own", "own: 4 draws a query"):
        one, other = found.of(name), expected.of(name)
        for figure in ("bias", "sd", "cosine", "kl", "tv", "effective_sample_size", "encoded"):
            assert getattr(one, figure) == pytest.approx(getattr(other, figure), rel=1e-5), figure
    assert [each.rows for each in found.ages] == [N]
    assert found.ages[0].error == pytest.approx(expected.ages[0].error, rel=1e-5)
    kinds = {each.kind for each in found.advice}
    assert "uniform" not in kinds, "no stream can be drawn from uniformly"
    assert not [each for each in found.samplers if "batch" in each.name]


def test_coverage_is_the_mass_of_what_is_held(dense):
    kept, masses = 20, softmax(dense)
    found = look(streamed(dense, kept), dense)
    own = found.of("own")
    assert found.coverage.rows == kept
    assert found.coverage.share == pytest.approx(float(masses[:, -kept:].sum(dim=1).mean()))
    assert f"{kept} of {N} items, with {found.coverage.share:.1%} of" in found.reach
    assert own.kl == float("inf")
    assert own.p_value != own.p_value, "weights are of all caches that could be, not of this one"
    assert look(streamed(dense, N), dense).of("own").bias < own.bias
    figures = found.figures()
    assert figures["coverage"] == {"rows": kept, "share": found.coverage.share}


def test_what_a_larger_cache_would_hold_is_told(dense):
    """By the items that came last; in figures, and in words where it is more."""
    kept, masses = 16, softmax(dense).mean(dim=0)
    newest = IDS.flip(0)
    found = look(streamed(dense, kept), dense, settings=Settings(4), recent=newest)
    expected = {size: float(masses[-size:].sum()) for size in (2, 4, 8, 16, 32)}
    assert dict(found.coverage_by_rows) == pytest.approx(expected)
    advice = found.advice[0]
    assert (advice.kind, advice.rows) == ("capacity", 32)
    assert (advice.before, advice.after) == pytest.approx((1 - expected[16], 1 - expected[32]))
    assert f"{expected[16]:.0%} of the softmax" in advice.sentence
    assert f"32 rows, the items that came last, would hold {expected[32]:.0%}" in advice.sentence
    few = look(streamed(dense, kept), dense, recent=newest[:20])
    assert few.coverage_by_rows[-1].rows == 20, "no more came"


@pytest.mark.parametrize(
    ("kept", "size", "recent"),
    [
        (16, 16, None),
        (16, 16, IDS.flip(0).roll(1)),
        (16, 16, IDS.flip(0)[:16]),
        (16, 20, IDS.flip(0)),
    ],
    ids=["unknown", "another came last", "no more came", "there is room"],
)
def test_nothing_is_said_of_a_larger_cache_where_it_is_not_known(dense, kept, size, recent):
    found = look(streamed(dense, kept, size), dense, settings=Settings(4), recent=recent)
    assert found.coverage_by_rows == []
    assert "capacity" not in [each.kind for each in found.advice]


def test_a_sample_of_a_stream_stands_for_it(dense):
    """What is drawn has the features of the cache, or of a pass over the stream."""
    loss = streamed(dense, 20)
    whole = look(loss, dense, settings=plain(16))
    parts = [look(loss, dense, settings=plain(16, items=20, seed=seed)) for seed in range(6)]
    for part in parts:
        assert part.sampled < part.num_items == N
        assert abs(part.loss - whole.loss) < 0.3
        assert abs(part.of("own").query.bias - whole.of("own").query.bias) < 3 * part.truth_error
    shares = torch.tensor([each.coverage.share for each in parts])
    assert abs(float(shares.mean()) - whole.coverage.share) < 3 * float(shares.std()) / 6**0.5


def test_negatives_of_other_batches_are_of_the_stream(dense):
    """Items of pairs to come are read, and change with each repeat."""
    loss = nc.SoftmaxLoss(dense.item_tower, _Passing(), nc.InBatch(), dense.score)
    for settings in (plain(8), plain(8, items=12)):
        fixed, moving = (look(loss, dense, settings=settings, partners=p) for p in (None, IDS))
        assert fixed.of("own").query.sd < 1e-6
        assert moving.of("own").query.sd > 0.1
        assert moving.coverage is None


class _Passing:
    """A corpus without a cache, of items that have gone by."""

    def __len__(self):
        return nc.StreamingCache.num_items

    def __getitem__(self, ids):
        raise AssertionError("features come from the stream")


class _Reading:
    """All items, of which every fifth turns out to have nothing to be encoded from."""

    def __init__(self, items):
        self.items, self.ids, self.passes = items, items.ids, 0

    def read(self, ids):
        self.passes += 1
        kept = ids[torch.searchsorted(IDS, ids) % 5 != 0]
        for part in kept.flip(0).split(4):
            yield part, self.items[part]


def test_items_without_features_are_none(dense):
    """And all the others come from one pass over the stream."""
    cache = nc.StreamingCache(4, D)
    some = torch.tensor([11, 12, 13, 14])
    cache.receive(IDS[some], dense.corpus[some])
    cache.commit()
    cache.write(IDS[some], dense.store.rows(some))
    loss = nc.SoftmaxLoss(
        dense.item_tower, cache, nc.SharedDraws(nc.CachedSoftmax(cache, 1)), dense.score
    )
    reading = _Reading(every(dense))
    queries = queries_of()[0][:4]
    positives = IDS[torch.tensor([1, 2, 3, 4])]
    found = diagnose(loss, queries, positives, settings=plain(4), beside=Beside(items=reading))
    assert found.num_items == found.sampled == N - N // 5
    assert reading.passes == 1
    with pytest.raises(nc.InputError, match=f"none of item {int(IDS[5])}"):
        diagnose(loss, queries, IDS[5:9], settings=plain(4), beside=Beside(items=reading))


def test_items_of_batches_to_come_are_read_in_the_same_pass(dense):
    """Of a sample too, which has few of them."""
    reading = _Reading(every(dense))
    loss = nc.SoftmaxLoss(dense.item_tower, _Passing(), nc.InBatch(), dense.score)
    few = torch.tensor([1, 2, 3, 4])
    partners = IDS[torch.arange(N) % 5 != 0]
    beside = Beside(items=reading, partners=partners)
    settings = plain(8, items=6)
    diagnose(loss, queries_of()[0][:4], IDS[few], settings=settings, beside=beside)
    assert reading.passes == 1


def test_each_item_is_encoded_once_and_from_the_cache_where_it_is(dense):
    loss = streamed(dense, 10)
    items = FreshItems(loss.encoder, N, "cpu", every(dense))
    items.encode(IDS[-20:])
    with torch.no_grad():
        expected = dense.score.embed(dense.item_tower.eval()(dense.corpus[-20:]))
    dense.item_tower.train()
    assert torch.allclose(items(IDS[-20:]), expected, atol=1e-12)
    assert items.num_encoded == 20
    assert items.there(IDS[[0, -20]]).tolist() == [False, True]


def test_a_sample_of_ids_is_ascending_and_knows_its_places():
    noise = torch.Generator().manual_seed(0)
    found = ItemSample.drawn(IDS, 10, IDS[[3, 50, 3]], noise)
    assert torch.equal(found.ids, found.ids.sort().values)
    assert found.weight.sum() == N
    assert found.weight[found.places(IDS[[3, 50]])].tolist() == [1, 1]
    assert len(found.ids) == 12
    assert found.places(torch.tensor([IDS[3] + 1])).tolist() == [-1]
    every_one = ItemSample.of_all(N, ids=IDS)
    assert every_one.places(IDS[[7, 59]]).tolist() == [7, 59]
    assert every_one.only(IDS[9] < IDS).num_items == N - 10


def test_a_stream_that_is_looked_at_is_left_as_it_is(dense):
    loss = streamed(dense, 20, row_weight="dedup")
    before = pack(loss.own_state())
    look(loss, dense, settings=Settings(4), recent=IDS.flip(0))
    after = pack(loss.own_state())
    assert before[0] == after[0]
    for name, tensor in before[1].items():
        assert torch.equal(tensor, after[1][name]), name


def test_what_a_stream_lacks_is_named(dense):
    loss, (queries, positives) = streamed(dense, 20), queries_of()
    with pytest.raises(nc.InputError, match="Beside\\(items="):
        diagnose(loss, queries, IDS[positives], settings=plain(4))
    some = ItemsInMemory(IDS[:50], dense.corpus[:50])
    with pytest.raises(
        nc.InputError, match="among the items of the stream every one that has come"
    ):
        diagnose(loss, queries, IDS[positives], settings=plain(4), beside=Beside(items=some))
    with pytest.raises(nc.InputError, match="a row of features for each of 60 ids"):
        ItemsInMemory(IDS, dense.corpus[:9])
    with pytest.raises(nc.InputError, match="items that are here"):
        some[IDS[55:]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["distinct", "head_tail", "quadratic", "each"])
def test_other_samplers_over_a_stream(dense, name):
    build = {
        "distinct": lambda store: CachedDistinct(store, 3),
        "head_tail": lambda store: HeadTail(store, 4, 3),
        "quadratic": lambda store: nc.SharedDraws(nc.quadratic(store, 2)),
        "each": lambda store: nc.CachedSoftmax(store, 2),
    }[name]
    part, whole = (look(streamed(dense, kept, sampler=build), dense) for kept in (20, N))
    assert part.coverage.share < whole.coverage.share == 1.0
    assert whole.of("own").bias < part.of("own").bias


def test_bags_are_features_too():
    """Texts as bags, of a stream of words."""
    torch.manual_seed(0)
    bags = nc.towers.Bags(torch.arange(12) % 5, torch.tensor([0, 3, 4, 8]))
    ids = torch.tensor([9, 2, 2**61, 4])
    tower = nc.towers.StaticTower(5, 4)
    cache = nc.StreamingCache(2, 4)
    cache.receive(ids[:2], nc.towers.Bags(bags.tokens[:4], bags.starts[:2]))
    cache.commit()
    with torch.no_grad():
        rows = tower(bags)
    cache.write(ids[:2], rows[:2])
    loss = nc.SoftmaxLoss(tower, cache, nc.SharedDraws(nc.CachedSoftmax(cache, 1)))
    beside = Beside(items=ItemsInMemory(ids, bags))
    found = diagnose(loss, rows.clone(), ids, settings=plain(4), beside=beside)
    scores = loss.score(loss.score.embed(rows), loss.score.embed(rows)).detach()
    scores.fill_diagonal_(-torch.inf)
    held = float(scores.softmax(dim=1)[:, :2].sum(dim=1).mean())
    assert found.coverage.share == pytest.approx(held, rel=1e-5)
    assert isinstance(tower, nn.Module)

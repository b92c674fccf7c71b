"""What a shared draw reads: the rows once, the sums' uppermost level once, the centres once."""

import pytest
import torch
from dynamic import clusters
from roster import ROWS, problem

import negcache as nc
from negcache.draws import draw
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.two_stage import scores_all


class Counted(nc.DenseCache):
    """A store that counts its rows as they are read: in passes, and by their slots."""

    passed = gathered = 0

    def restart(self):
        self.passed = self.gathered = 0

    def chunks(self, size):
        for first, block in super().chunks(size):
            self.passed += len(block)
            yield first, block

    def rows(self, slots):
        self.gathered += len(slots)
        return super().rows(slots)


class CountedScore(nc.DotScore):
    """A score that counts what whole batches of queries are scored against."""

    def restart(self):
        self.against = []

    def forward(self, queries, items, out=None):
        self.against.append(len(items))
        return super().forward(queries, items, out)


def counted(num_items):
    """The roster's problem over a store and a score that count."""
    request, _, full = problem(num_items=num_items)
    store = Counted(num_items, 8, dtype=torch.float64)
    store.write(torch.arange(num_items), full.table.embeddings)
    score = CountedScore(0.3).double().requires_grad_(False)
    score.restart()
    return nc.messages.Request(request.queries, score, request.positives, request.exclude), store


def shared(sampler, request, store):
    """A shared draw that counts, after one that builds what the sampler keeps."""
    pool = nc.SharedDraws(sampler)
    draw(pool, request, torch.Generator().manual_seed(0))
    store.restart()
    request.score.restart()
    return draw(pool, request, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("num_items", "m", "kept"), [(300, 6, True), (4000, 6, False)])
def test_the_softmax_of_cached_scores_is_one_pass_over_the_rows(num_items, m, kept):
    """Few rows, whose scores are kept for stage two; and more than 512 m, where it gathers."""
    request, store = counted(num_items)
    assert scores_all(m, num_items) == kept
    drawn = shared(nc.CachedSoftmax(store, m), request, store)
    assert store.passed == num_items
    assert store.gathered == len(drawn.ids) + (0 if kept else ROWS * m * BLOCK)


def test_as_many_draws_as_blocks_are_a_second_pass():
    """Gathering would read 128 rows for each: more than there are."""
    request, store = counted(3400)
    drawn = shared(nc.CachedSoftmax(store, 6), request, store)
    assert store.passed == 2 * 3400
    assert store.gathered == len(drawn.ids)


def test_a_fraction_of_the_rows_is_read_once():
    """Two of three blocks, one of them short or not, are gathered; no pass is made."""
    request, store = counted(300)
    drawn = shared(nc.CachedSoftmax(store, 6, scored=0.67), request, store)
    assert store.passed == 0
    assert store.gathered - len(drawn.ids) in (256, 172)


@pytest.mark.parametrize("num_items", [300, 3400])
@pytest.mark.parametrize(
    "build",
    [
        lambda store: nc.quadratic(store, 6),
        lambda store: nc.rf_softmax(store, 6, num_frequencies=8, nu=3.0),
    ],
    ids=["quadratic", "rf_softmax"],
)
def test_the_uppermost_sums_are_scored_once(build, num_items):
    request, store = counted(num_items)
    sampler, calls = build(store), []

    def top_masses(features):
        calls.append(len(features))
        return masses(features)

    masses, sampler.sums.top_masses = sampler.sums.top_masses, top_masses
    shared(sampler, request, store)
    assert calls == [ROWS, ROWS], "one for the draw that builds, one for the draw that counts"
    assert store.passed == 0
    assert request.score.against == []


@pytest.mark.parametrize("expand", [0, 3])
@pytest.mark.parametrize("num_items", [300, 3400])
def test_the_centres_are_scored_once(num_items, expand):
    """All of them; or the coarse ones, and then, few as they are, the fine ones."""
    request, store = counted(num_items)
    sampler = nc.DynamicIndex(store, 6, index=clusters(60), expand=expand)
    shared(sampler, request, store)
    fine, nested = sampler.clusters.index.table.num_clusters, sampler.clusters._nested
    once = [fine] if nested is None else [nested.coarse.num_clusters, fine]
    assert request.score.against == once
    assert (store.passed, store.gathered) == (0, 0)

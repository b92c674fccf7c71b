"""Search by faiss: flat is exact search; approximate indexes stay lawful, and resume bit by bit."""

import pytest
import torch
from pace import slow
from roster import NUM_ITEMS, problem
from setting import Setting

import negcache as nc
from negcache.indexes import top_k
from negcache.samplers.stale_ann import StaleTopK
from negcache.testing.conformance import check_sampler

pytest.importorskip("faiss")
from negcache.indexes.faiss_index import FaissIndex

APPROXIMATE = [("IVF4,Flat", "nprobe=2"), ("HNSW8", "efSearch=32")]


@pytest.mark.parametrize("longest", [1.0, 3.0])
def test_flat_finds_what_exact_search_finds(longest):
    """Also where rows differ in length: largest inner product, not nearest."""
    request, items, store = problem()
    lengths = torch.linspace(1.0, longest, NUM_ITEMS, dtype=torch.float64)
    store.write(torch.arange(NUM_ITEMS), items * lengths[:, None])
    index = FaissIndex(store)
    for k in (1, 20, NUM_ITEMS):
        found = index(request.queries, request.score, k)
        wanted = top_k(request.queries, store.chunks(100), request.score, k)[1]
        assert torch.equal(found, wanted)


def test_a_sampler_over_flat_draws_what_it_draws_over_exact_search():
    request, _, store = problem(0.3)
    for settings in ({"depth": 30}, {"tail": 4}):
        exact, by_faiss = (
            StaleTopK(store, 6, index=index, **settings).draw(
                request, torch.Generator().manual_seed(1)
            )
            for index in (None, FaissIndex(store))
        )
        assert torch.equal(exact.ids[exact.columns], by_faiss.ids[by_faiss.columns])
        assert torch.equal(exact.log_weight, by_faiss.log_weight)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("factory", "settings"), [APPROXIMATE[0], slow(*APPROXIMATE[1])])
def test_over_an_approximate_index_a_tail_is_unbiased(factory, settings):
    request, items, store = problem(0.3)
    index = FaissIndex(store, factory, settings=settings)
    found = index(request.queries, request.score, 20)
    best = top_k(request.queries, store.chunks(100), request.score, 20)[1]
    hits = torch.tensor([len(set(a) & set(b)) for a, b in zip(found.tolist(), best.tolist())])  # noqa: B905
    assert hits.min() >= 5
    for seed in (0, 1, 2):
        check_sampler(StaleTopK(store, 6, tail=4, index=index), request, items, seed=seed)


def test_where_an_index_finds_too_few_the_others_do_not_count():
    """One cluster of many is searched: most of the 200 best are not in it."""
    request, items, store = problem()
    index = FaissIndex(store, "IVF8,Flat", settings="nprobe=1")
    assert (index(request.queries, request.score, 200) == -1).any()
    draw = StaleTopK(store, 200, index=index).draw(request, torch.Generator())
    assert (draw.log_weight == -torch.inf).any()
    assert (draw.log_weight == 0).any()
    check_sampler(StaleTopK(store, 200, tail=4, index=index), request, items)


def test_the_index_follows_the_rows():
    request, items, store = problem()
    index = FaissIndex(store)
    first = index(request.queries, request.score, 20)
    store.write(torch.arange(NUM_ITEMS), items.flip(0))
    assert torch.equal(index(request.queries, request.score, 20), NUM_ITEMS - 1 - first)


def test_a_step_that_writes_nothing_does_not_build_anew():
    setting = Setting(by_index("Flat", ""), refresh=nc.stores.Snapshot(3))
    built = []
    for _ in range(6):
        setting.step()
        built.append(setting.loss.sampler.search.index)
    assert [index is None for index in built] == [False, False, True, False, False, True]
    assert built[0] is built[1]
    assert built[3] is built[4]


def by_index(factory, settings):
    def build(store):
        index = FaissIndex(store, factory, settings=settings)
        return StaleTopK(store, 4, depth=20, index=index)

    return build


@pytest.mark.parametrize("steps", [3, 4], ids=["before_a_build", "after_a_build"])
@pytest.mark.parametrize(("factory", "settings"), [("Flat", ""), *APPROXIMATE])
def test_a_resumed_run_is_the_run_that_never_stopped(factory, settings, steps):
    build = by_index(factory, settings)
    whole, resumed = (Setting(build, refresh=nc.stores.Snapshot(3), seed=seed) for seed in (0, 5))
    for _ in range(steps):
        whole.step()
    resumed.step()
    resumed.corpus.copy_(whole.corpus)
    resumed.load(whole.state())
    assert (resumed.loss.sampler.search.index is None) == (steps == 3), "saved as it was"
    for _ in range(5):
        assert torch.equal(whole.step(), resumed.step())


def test_bad_input():
    request, _, store = problem()
    with pytest.raises(nc.InputError, match=r"factory string for 8 dimensions.*'Tree7'"):
        FaissIndex(store, "Tree7")
    with pytest.raises(nc.InputError, match="settings 'nprob=2'"):
        FaissIndex(store, "IVF4,Flat", settings="nprob=2")
    with pytest.raises(nc.InputError, match=r"300 rows can train.*IVF512"):
        FaissIndex(store, "IVF512,Flat")(request.queries, request.score, 5)

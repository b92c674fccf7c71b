"""The samplers of the dynamic index, through their public draws."""

import math

import pytest
import torch
from dynamic import EVERY, Counting, cells, low_rank, refresh
from roster import NUM_ITEMS, ROWS, problem, subset
from setting import Setting

import negcache as nc
from negcache.testing import reference
from negcache.stores import LowRankCache
from negcache.testing.conformance import check_sampler, tile
from negcache.draws import use_columns
from negcache.samplers.dynamic_index import DynamicIndex
from negcache.samplers.chain import DynamicIndexChain, as_printed
from negcache.contrib.miner import DynamicIndexMiner
from negcache.samplers.rejection import DynamicIndexRejection

UNBIASED = {
    "plain": lambda cache: DynamicIndex(cache, 6, index=cells()),
    "two_levels": lambda cache: DynamicIndex(cache, 6, index=cells(60), expand=3),
    "shared": lambda cache: nc.SharedDraws(DynamicIndex(cache, 6, index=cells())),
    "mixture": lambda cache: nc.Mixture(
        DynamicIndex(cache, 4, index=cells()), nc.Uniform(cache, 2)
    ),
}
APPROXIMATE = {
    "chain": lambda cache: DynamicIndexChain(cache, 6, chain=3, index=cells()),
    "chain_two_levels": lambda cache: DynamicIndexChain(cache, 6, index=cells(60), expand=3),
    "as_printed": lambda cache: as_printed(cache, 6, index=cells()),
    "rejection": lambda cache: DynamicIndexRejection(cache, 6, tries=64, index=cells(40)),
    "as_run": lambda cache: DynamicIndexMiner(cache, 6, top_clusters=9, index=cells()),
}


@pytest.mark.parametrize("drift", [0.0, 0.3])
@pytest.mark.parametrize("name", [*UNBIASED, *APPROXIMATE])
def test_laws(name, drift):
    request, items, cache = problem(drift)
    fresh_and_whole = drift == 0 and name in ("chain", "chain_two_levels", "rejection")
    sampler = (UNBIASED | APPROXIMATE)[name](cache)
    unbiased = name in UNBIASED or fresh_and_whole
    check_sampler(sampler, request, items, unbiased=unbiased, rounds=50)


@pytest.mark.parametrize("name", [*UNBIASED, *APPROXIMATE])
def test_laws_over_low_rank_coordinates_that_have_been_re_encoded(name):
    request, items, _ = problem()
    noise = torch.Generator().manual_seed(3)
    moved = items + 0.3 * torch.randn(items.shape, generator=noise, dtype=items.dtype)
    cache = low_rank(items)
    sampler = (UNBIASED | APPROXIMATE)[name](cache)
    sampler.draw(request, torch.Generator())  # cells are built before the items move
    refresh(cache, moved)
    check_sampler(sampler, request, moved, unbiased=name in UNBIASED, rounds=50)


def test_laws_over_a_part_of_the_items():
    request, items, cache = problem()
    check_sampler(DynamicIndex(subset(cache), 6, index=cells()), request, items, unbiased=False)
    check_sampler(
        DynamicIndexChain(subset(cache), 6, index=cells()), request, items, unbiased=False
    )


def test_laws_with_items_never_written():
    request, items, full = problem()
    cache = nc.DenseCache(len(items), items.shape[1], dtype=torch.float64)
    cache.write(torch.arange(200), full.table[:200])
    for build in (UNBIASED | APPROXIMATE).values():
        if build is not UNBIASED["mixture"]:
            check_sampler(build(cache), request, items, unbiased=False)


@pytest.mark.parametrize("expand", [0, 3])
def test_weights_are_unbiased_by_enumeration_whatever_is_stale(expand):
    """Sum over y of q(y) m exp(s_y + w_y) / m = Z-, and every item can be drawn."""
    request, items, cache = problem(drift=0.5)
    sampler = DynamicIndex(cache, 6, index=cells(40), expand=expand)
    sampler.draw(request, torch.Generator())
    noise = torch.Generator().manual_seed(1)
    ids = torch.randperm(NUM_ITEMS, generator=noise)[:100]  # members move, centres stay
    cache.write(
        ids, cache.table[ids] + 0.5 * torch.randn(100, 8, generator=noise, dtype=items.dtype)
    )
    log_q = sampler.log_prob(request, EVERY)
    barred = request.exclude.mask(EVERY)
    assert (log_q[~barred] > -torch.inf).all()
    places = sampler.proposal.ask(request).log_prob(EVERY)
    torch.testing.assert_close(places.exp().sum(1), torch.ones(ROWS).double(), atol=1e-12, rtol=0)
    assert (places[barred] == -torch.inf).all()
    draw = sampler.draw(tile(request, 200), torch.Generator().manual_seed(0))
    drawn = draw.ids[draw.columns].view(200, ROWS, 6)
    weight = torch.full((ROWS, NUM_ITEMS), -torch.inf, dtype=torch.float64)
    for row in range(ROWS):
        weight[row, drawn[:, row]] = draw.log_weight.view(200, ROWS, 6)[:, row]
    met = weight > -torch.inf
    weight = torch.where(met, weight, -log_q - math.log(6)).masked_fill(barred, -torch.inf)
    scores = request.score(request.queries, items)
    terms = (places + math.log(6) + scores + weight).masked_fill(barred, -torch.inf)
    truth = reference.log_partition(request, items)
    torch.testing.assert_close(torch.logsumexp(terms, dim=1), truth, atol=1e-12, rtol=0)
    assert met.sum() > 500


def spoilt(values):
    """The importance sampler with other log-chances than those it draws by."""

    class Spoilt:
        has_density, coverage, num_negatives = True, 1.0, 6

        def __init__(self, cache):
            self.cache, self.inner = cache, DynamicIndex(cache, 6, index=cells())

        def draw(self, request, generator):
            draw = self.inner.draw(request, generator)
            log_q = self.log_prob(request, draw.ids).gather(1, draw.columns)
            weight = (-log_q - math.log(6)).masked_fill(draw.log_weight == -torch.inf, -torch.inf)
            return use_columns(draw.ids[draw.columns], weight)

        def log_prob(self, request, ids, law=None):
            table = self.inner.proposal.index.table
            logits = request.score(request.queries, table.centres)
            chance = torch.log_softmax(values(logits, table)[:, table.labels], dim=1)
            return chance.masked_fill(request.exclude.mask(EVERY), -torch.inf)[:, ids]

    return Spoilt


@pytest.mark.parametrize(
    "values",
    [lambda v, table: v - table.sizes.log(), lambda v, table: v * 0.3],
    ids=["sizes", "beta"],
)
def test_chances_without_cell_sizes_or_without_beta_are_caught(values):
    request, items, cache = problem()
    check_sampler(spoilt(lambda v, table: v)(cache), request, items)
    with pytest.raises(AssertionError, match=r"law|unbiased"):
        check_sampler(spoilt(values)(cache), request, items)


@pytest.mark.parametrize("expand", [0, 3])
def test_rows_touched_by_a_draw_do_not_grow_with_the_corpus(expand):
    for num_items in (300, 3000):
        request, _, cache = problem(num_items=num_items)
        for build, most in (
            (lambda cache, **kw: DynamicIndex(cache, 6, **kw), 0),
            (lambda cache, **kw: DynamicIndexChain(cache, 6, chain=5, **kw), ROWS * 6 * 5),
        ):
            sampler = build(cache, index=cells(), expand=expand)
            sampler.draw(request, torch.Generator())
            cache.chunks = None  # a draw that walks the cache fails
            counting = Counting(cache)
            sampler.draw(request, torch.Generator())
            assert counting.count == most
            del cache.rows, cache.chunks


def test_a_query_whose_items_are_all_barred_has_nothing():
    request, _, cache = problem()
    exclude = nc.exclusion.Exclusion.from_pairs(torch.zeros(NUM_ITEMS).long(), EVERY, ROWS)
    request = nc.messages.Request(request.queries, request.score, request.positives, exclude)
    for build in (UNBIASED["plain"], *APPROXIMATE.values()):
        draw = build(cache).draw(request, torch.Generator().manual_seed(0))
        assert (draw.log_weight[0] == -torch.inf).all()
        assert (draw.log_weight[1:] > -torch.inf).any()
        for field in (draw.log_z, draw.log_share):
            assert field is None or (field[0] == -torch.inf).all()
            assert field is None or not field.isnan().any()


def test_absolute_scores_are_drawn_by_their_own_law():
    request, items, cache = problem()
    score = nc.DotScore(0.3, absolute=True).double().requires_grad_(False)
    request = nc.messages.Request(request.queries, score, request.positives, request.exclude)
    check_sampler(DynamicIndex(cache, 6, index=cells()), request, items, rounds=50)
    sampler = DynamicIndexRejection(cache, 6, tries=64, index=cells(60))
    check_sampler(sampler, request, items, rounds=50)


@pytest.mark.parametrize(
    "build",
    [
        lambda cache: DynamicIndex(cache, 0),
        lambda cache: DynamicIndex(cache, 2, expand=-1),
        lambda cache: DynamicIndexChain(cache, 2, chain=0),
        lambda cache: DynamicIndexChain(cache, 0),
        lambda cache: DynamicIndexRejection(cache, 2, rounds=0),
        lambda cache: DynamicIndexMiner(cache, 2, top_clusters=0),
    ],
)
def test_settings_that_draw_nothing_are_refused(build):
    with pytest.raises(nc.InputError):
        build(problem()[2])


def test_a_snapshot_of_coordinates_is_refused():
    for inner in (LowRankCache(300, 8), nc.nc.DenseCache(300, 8, refresh=nc.stores.Snapshot(3))):
        with pytest.raises(nc.InputError, match=f"DenseCache or a Sub.*got {type(inner).__name__}"):
            nc.SnapshotCache(inner, 5)


SMALL = {"landmarks": 5, "every": 4, "sample": 40}


@pytest.mark.parametrize("low", [True, False], ids=["low_rank", "dense"])
@pytest.mark.parametrize(
    ("build", "estimator"),
    [
        (lambda cache: nc.SharedDraws(DynamicIndex(cache, 2, index=cells())), nc.log_q_corrected),
        (lambda cache: DynamicIndex(cache, 4, index=cells(40), expand=2), nc.log_q_corrected),
        (lambda cache: DynamicIndexChain(cache, 4, index=cells()), nc.cached_partition),
        (
            lambda cache: DynamicIndexRejection(cache, 4, tries=64, rounds=4, index=cells()),
            nc.cached_partition,
        ),
    ],
    ids=["shared", "two_levels", "chain", "rejection"],
)
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(low, build, estimator):
    def start():
        cache = LowRankCache(300, 8, **SMALL) if low else None
        return Setting(lambda dense: build(cache or dense), estimator=estimator)

    one = start()
    first = [one.step() for _ in range(7)]
    other = start()
    other.load(one.state())
    ours = [one.step() for _ in range(25)]
    theirs = [other.step() for _ in range(25)]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.stack(ours[-10:]).mean() < torch.stack(first).mean()

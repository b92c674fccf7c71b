"""The samplers of the dynamic index, through their public draws."""

import math

import pytest
import torch
from dynamic import EVERY, Counting, clusters, low_rank, refresh
from pace import slow
from partition import log_prob
from roster import NUM_ITEMS, ROWS, problem, subset
from setting import Setting

import negcache as nc
from negcache.contrib import ChainAsPrinted, DynamicIndexMiner
from negcache.draws import draw as draw_from
from negcache.interfaces import Proposal
from negcache.samplers.chain import DynamicIndexChain
from negcache.samplers.dynamic_index import DynamicIndex
from negcache.samplers.rejection import DynamicIndexRejection
from negcache.stores import LowRankCache
from negcache.testing import reference
from negcache.testing.conformance import check_sampler, tile

UNBIASED = {
    "plain": lambda store: DynamicIndex(store, 6, index=clusters()),
    "two_levels": lambda store: DynamicIndex(store, 6, index=clusters(60), expand=3),
    "shared": lambda store: nc.SharedDraws(DynamicIndex(store, 6, index=clusters())),
    "mixture": lambda store: nc.Mixture(
        DynamicIndex(store, 4, index=clusters()), nc.Uniform(store, 2)
    ),
}
APPROXIMATE = {
    "chain": lambda store: DynamicIndexChain(store, 6, chain=3, index=clusters()),
    "chain_two_levels": lambda store: DynamicIndexChain(store, 6, index=clusters(60), expand=3),
    "as_printed": lambda store: ChainAsPrinted(store, 6, index=clusters()),
    "rejection": lambda store: DynamicIndexRejection(store, 6, tries=64, index=clusters(40)),
    "as_run": lambda store: DynamicIndexMiner(store, 6, top_clusters=9, index=clusters()),
}


@pytest.mark.parametrize("drift", [slow(0.0), 0.3])
@pytest.mark.parametrize("name", [*UNBIASED, *APPROXIMATE])
def test_laws(name, drift):
    request, items, store = problem(drift)
    fresh_and_whole = drift == 0 and name in ("chain", "chain_two_levels", "rejection")
    sampler = (UNBIASED | APPROXIMATE)[name](store)
    unbiased = name in UNBIASED or fresh_and_whole
    check_sampler(sampler, request, items, unbiased=unbiased, rounds=50)


@pytest.mark.parametrize("name", [*UNBIASED, *APPROXIMATE])
def test_laws_over_low_rank_coordinates_that_have_been_re_encoded(name):
    request, items, _ = problem()
    noise = torch.Generator().manual_seed(3)
    moved = items + 0.3 * torch.randn(items.shape, generator=noise, dtype=items.dtype)
    store = low_rank(items)
    sampler = (UNBIASED | APPROXIMATE)[name](store)
    draw_from(sampler, request, torch.Generator())  # clusters are built before the items move
    refresh(store, moved)
    check_sampler(sampler, request, moved, unbiased=name in UNBIASED, rounds=50)


def test_laws_over_a_part_of_the_items():
    request, items, store = problem()
    check_sampler(DynamicIndex(subset(store), 6, index=clusters()), request, items, unbiased=False)
    check_sampler(
        DynamicIndexChain(subset(store), 6, index=clusters()), request, items, unbiased=False
    )


def test_laws_with_items_never_written():
    request, items, full = problem()
    store = nc.DenseCache(len(items), items.shape[1], dtype=torch.float64)
    store.write(torch.arange(200), full.table.embeddings[:200])
    for build in (UNBIASED | APPROXIMATE).values():
        if build is not UNBIASED["mixture"]:
            check_sampler(build(store), request, items, unbiased=False)


@pytest.mark.parametrize("expand", [0, 3])
def test_weights_are_unbiased_by_enumeration_whatever_is_stale(expand):
    """Sum over y of q(y) m exp(s_y + w_y) / m = Z-, and every item can be drawn."""
    request, items, store = problem(drift=0.5)
    sampler = DynamicIndex(store, 6, index=clusters(40), expand=expand)
    draw_from(sampler, request, torch.Generator())
    noise = torch.Generator().manual_seed(1)
    ids = torch.randperm(NUM_ITEMS, generator=noise)[:100]  # members move, centres stay
    store.write(
        ids,
        store.table.embeddings[ids] + 0.5 * torch.randn(100, 8, generator=noise, dtype=items.dtype),
    )
    log_q = log_prob(sampler, request, EVERY)
    excluded = request.exclude.mask(EVERY)
    assert (log_q[~excluded] > -torch.inf).all()
    places = sampler.clusters.score(request).log_prob(EVERY)
    torch.testing.assert_close(places.exp().sum(1), torch.ones(ROWS).double(), atol=1e-12, rtol=0)
    assert (places[excluded] == -torch.inf).all()
    draw = draw_from(sampler, tile(request, 200), torch.Generator().manual_seed(0))
    drawn = draw.ids[draw.columns].view(200, ROWS, 6)
    weight = torch.full((ROWS, NUM_ITEMS), -torch.inf, dtype=torch.float64)
    for row in range(ROWS):
        weight[row, drawn[:, row]] = draw.log_weight.view(200, ROWS, 6)[:, row]
    met = weight > -torch.inf
    weight = torch.where(met, weight, -log_q - math.log(6)).masked_fill(excluded, -torch.inf)
    scores = request.score(request.queries, items)
    terms = (places + math.log(6) + scores + weight).masked_fill(excluded, -torch.inf)
    truth = reference.log_partition(request, items)
    torch.testing.assert_close(torch.logsumexp(terms, dim=1), truth, atol=1e-12, rtol=0)
    assert met.sum() > 500


def spoilt(values):
    """The importance sampler with other log-chances than those it draws by."""

    class Spoilt:
        has_density, store, num_negatives = True, None, 6

        def __init__(self, store):
            self.inner = DynamicIndex(store, 6, index=clusters())

        def propose(self, request, generator):
            proposal, table = (
                self.inner.propose(request, generator),
                self.inner.clusters.index.table,
            )
            logits = values(request.score(request.queries, table.centres), table)[:, table.labels]
            excluded = request.exclude.mask(EVERY)
            log_q = torch.log_softmax(logits, dim=1).masked_fill(excluded, -torch.inf)

            def draw(noise):
                slots, _ = proposal.draw(noise)
                return slots, log_q.gather(1, slots)

            return Proposal(draw, lambda ids: log_q[:, ids])

    return Spoilt


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "values",
    [slow(lambda v, table: v - table.sizes.log()), lambda v, table: v * 0.3],
    ids=["sizes", "beta"],
)
def test_chances_without_cluster_sizes_or_without_beta_are_caught(values):
    request, items, store = problem()
    check_sampler(spoilt(lambda v, table: v)(store), request, items)
    with pytest.raises(AssertionError, match=r"law|unbiased"):
        check_sampler(spoilt(values)(store), request, items)


def walked(size):
    raise AssertionError("a draw walks the store")


@pytest.mark.parametrize("expand", [0, 3])
def test_rows_touched_by_a_draw_do_not_grow_with_the_corpus(expand):
    for num_items in (300, 3000):
        request, _, store = problem(num_items=num_items)
        for build, most in (
            (lambda store, **kw: DynamicIndex(store, 6, **kw), 0),
            (lambda store, **kw: DynamicIndexChain(store, 6, chain=5, **kw), ROWS * 6 * 5),
        ):
            sampler = build(store, index=clusters(), expand=expand)
            draw_from(sampler, request, torch.Generator())
            store.chunks = walked
            counting = Counting(store)
            draw_from(sampler, request, torch.Generator())
            assert counting.count == most
            del store.rows, store.chunks


def test_a_query_whose_items_are_all_excluded_has_nothing():
    request, _, store = problem()
    exclude = nc.exclusion.Exclusion.from_pairs(torch.zeros(NUM_ITEMS).long(), EVERY, ROWS)
    request = nc.messages.Request(request.queries, request.score, request.positives, exclude)
    for build in (UNBIASED["plain"], *APPROXIMATE.values()):
        draw = draw_from(build(store), request, torch.Generator().manual_seed(0))
        assert (draw.log_weight[0] == -torch.inf).all()
        assert (draw.log_weight[1:] > -torch.inf).any()
        for field in (draw.log_z, draw.log_share):
            assert field is None or (field[0] == -torch.inf).all()
            assert field is None or not field.isnan().any()


def test_absolute_scores_are_drawn_by_their_own_law():
    request, items, store = problem()
    score = nc.DotScore(0.3, absolute=True).double().requires_grad_(False)
    request = nc.messages.Request(request.queries, score, request.positives, request.exclude)
    check_sampler(DynamicIndex(store, 6, index=clusters()), request, items, rounds=50)
    sampler = DynamicIndexRejection(store, 6, tries=64, index=clusters(60))
    check_sampler(sampler, request, items, rounds=50)


@pytest.mark.parametrize(
    "build",
    [
        lambda store: DynamicIndex(store, 0),
        lambda store: DynamicIndex(store, 2, expand=-1),
        lambda store: DynamicIndexChain(store, 2, chain=0),
        lambda store: DynamicIndexChain(store, 0),
        lambda store: DynamicIndexRejection(store, 2, rounds=0),
        lambda store: DynamicIndexMiner(store, 2, top_clusters=0),
    ],
)
def test_settings_that_draw_nothing_are_refused(build):
    with pytest.raises(nc.InputError):
        build(problem()[2])


SMALL = {"landmarks": 5, "every": 4, "sample": 40}


@pytest.mark.parametrize("low", [True, slow(False)], ids=["low_rank", "dense"])
@pytest.mark.parametrize(
    ("build", "estimator"),
    [
        (
            lambda store: nc.SharedDraws(DynamicIndex(store, 2, index=clusters())),
            nc.log_q_corrected,
        ),
        (lambda store: DynamicIndex(store, 4, index=clusters(40), expand=2), nc.log_q_corrected),
        (lambda store: DynamicIndexChain(store, 4, index=clusters()), nc.cached_partition),
        (
            lambda store: DynamicIndexRejection(store, 4, tries=64, rounds=4, index=clusters()),
            nc.cached_partition,
        ),
    ],
    ids=["shared", "two_levels", "chain", "rejection"],
)
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(low, build, estimator):
    def start():
        store = LowRankCache(300, 8, **SMALL) if low else None
        return Setting(lambda dense: build(store or dense), estimator=estimator)

    one = start()
    first = [one.step() for _ in range(7)]
    other = start()
    other.load(one.state())
    ours = [one.step() for _ in range(25)]
    theirs = [other.step() for _ in range(25)]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.stack(ours[-10:]).mean() < torch.stack(first).mean()

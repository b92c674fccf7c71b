"""Alias table, mixtures, parts of a store: expectations by enumeration."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from roster import mixture, problem

import negcache as nc
from negcache.draws import ItemProposal, propose
from negcache.draws import draw as draw_from
from negcache.ops.alias import build_alias
from negcache.ops.shards import Shard
from negcache.ops.views import BlockView, some_blocks
from negcache.samplers.cached import in_view, propose_softmax
from negcache.stores.reading import scored_rows
from negcache.testing import reference
from negcache.testing.conformance import check_sampler


@pytest.mark.parametrize("size", [1, 2, 5, 100, 1000])
@pytest.mark.parametrize("power", [0.0, 1.0, 8.0])
def test_the_alias_table_is_the_distribution(size, power):
    """Each item's keep and all that is handed to it sum to its chance, to rounding."""
    chances = torch.rand(size, generator=torch.Generator().manual_seed(size)).double() ** power
    chances = chances / chances.sum()
    table = build_alias(chances)
    assert ((table.keep >= 0) & (table.keep <= 1)).all()
    law = table.keep.clone().index_add_(0, table.alias, 1 - table.keep) / size
    torch.testing.assert_close(law, chances, atol=1e-12, rtol=0)


def test_the_alias_table_keeps_items_without_a_count_out():
    chances = torch.tensor([0.0, 0.7, 0.0, 0.3, 0.0], dtype=torch.float64)
    table = build_alias(chances)
    assert (table.keep[chances == 0] == 0).all()
    assert (chances[table.alias[table.keep < 1]] > 0).all()


@pytest.mark.parametrize("counts", [[1.0, -1.0], [0.0, 1.0], [1.0, float("nan")]])
def test_bad_counts_are_refused(counts):
    with pytest.raises(nc.InputError, match="counts"):
        nc.Popularity(torch.tensor(counts), 2)


@pytest.mark.parametrize("scored", [1.0, 0.34])
def test_a_mixture_is_unbiased_at_any_staleness(scored):
    """Given the law that was drawn: sum_y q_mix(y) exp(s_y) / q_mix(y) = Z-, since q_mix > 0."""
    request, _items, store = problem(drift=0.5)
    sampler = mixture(store, scored)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        proposal = propose(sampler, request, generator)
        draw, log_q = proposal.draw_for_each(generator), proposal.log_prob(torch.arange(300))
        excluded = request.exclude.mask(torch.arange(300))
        assert (log_q[~excluded] > -torch.inf).all()
        total = log_q.exp().sum(1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-10, rtol=0)
        drawn = log_q.gather(1, draw.ids[draw.columns])
        weight = -(drawn + math.log(6))
        torch.testing.assert_close(draw.log_weight, weight, atol=1e-10, rtol=0)
    bound = math.log(300 / 2)  # two of the six draws are uniform
    assert (draw.log_weight <= bound + 1e-9).all()


def test_mixtures_that_cannot_be_right_are_refused():
    _, _, store = problem()
    part = nc.CachedSoftmax(store, 2, scored=0.5)
    with pytest.raises(nc.InputError, match="reaches every item"):
        draw_from(nc.Mixture(part, part), problem()[0], torch.Generator())
    with pytest.raises(nc.InputError, match="over one store"):
        nc.Mixture(nc.CachedSoftmax(store, 2), nc.CachedSoftmax(nc.DenseCache(300, 8), 2))
    with pytest.raises(nc.InputError, match="has_density"):
        nc.Mixture(nc.Uniform(store, 2), nc.FullSoftmax(store))


ALONE = {
    "cached": lambda store: nc.CachedSoftmax(store, 6),
    "scored": lambda store: nc.CachedSoftmax(store, 6, scored=0.67),
    "quadratic": lambda store: nc.quadratic(store, 6),
    "dynamic_index": lambda store: nc.DynamicIndex(store, 6),
    "mixture": mixture,
}


@pytest.mark.parametrize("name", ALONE)
def test_a_query_whose_rows_are_all_positives_draws_what_is_left(name):
    """Items without a row are left, which a uniform part alone can draw."""
    request, items, store = problem(drift=0.3, gaps=True)
    held = store.valid.nonzero().squeeze(1)
    exclude = request.exclude.and_also(torch.full_like(held, 2), held)
    request = replace(request, exclude=exclude)
    sampler = ALONE[name](store)
    check_sampler(sampler, request, items, unbiased=name == "mixture", rounds=50)
    draw = draw_from(sampler, request, torch.Generator().manual_seed(0))
    assert (draw.log_weight[2] > -torch.inf).sum() == (2 if name == "mixture" else 0)


def test_every_block_is_scored_with_the_same_chance():
    """300 rows are three blocks, the last of 44; two of three are scored."""
    request, _, store = problem()
    whole, counts = scored_rows(request, store), torch.zeros(3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        view = some_blocks(Shard.whole(300), 0.67, generator, torch.device("cpu"))
        assert len(view.blocks.unique()) == 2
        assert view.num_rows == sum(128 if block < 2 else 44 for block in view.blocks.tolist())
        counts[view.blocks] += 1
    torch.testing.assert_close(counts / 3000, torch.full((3,), 2 / 3), atol=0.04, rtol=0)
    for blocks in ([0, 1], [0, 2], [1, 2], [1]):
        view = BlockView(300, torch.tensor(blocks), len(blocks) / 3)
        every = torch.arange(view.num_rows)
        rows, base = view.of(whole), view.to_base(every)
        assert torch.equal(view.from_base(base), every)
        outside = ~torch.isin(torch.arange(300), base)
        assert (view.from_base(torch.arange(300))[outside] == -1).all()
        assert torch.equal(torch.cat([b for _, b in rows.chunks(128)]), whole.rows(base))
        assert torch.equal(rows.rows(every), whole.rows(base))


def test_a_scored_fraction_is_unbiased_over_blocks_and_draws():
    """Both stages enumerated: every pair of blocks of three, every item of its law."""
    request, items, store = problem(drift=0.4)
    rows, fresh = scored_rows(request, store), request.score(request.queries, items)
    estimates = []
    for blocks in itertools.combinations(range(3), 2):
        view = BlockView(300, torch.tensor(blocks), 2 / 3)
        inside = propose_softmax(store, view.of(rows), 1, is_softmax=True)
        proposal = ItemProposal(in_view(inside, view), request, 1)
        log_q = proposal.log_prob(torch.arange(300))
        weight = -log_q - proposal.log_coverage(torch.arange(300))
        estimates.append((log_q.exp() * (fresh + weight).exp()).nan_to_num(0.0).sum(1))
    truth = reference.log_partition(request, items)
    torch.testing.assert_close(torch.stack(estimates).mean(0).log(), truth, atol=1e-10, rtol=0)


def test_a_tempered_draw_has_no_partition_of_its_own():
    request, _, store = problem()
    draw = draw_from(nc.CachedSoftmax(store, 2, power=0.5), request, torch.Generator())
    with pytest.raises(nc.InputError, match="log_z"):
        nc.cached_partition(torch.zeros(5, 2, dtype=torch.float64), draw)

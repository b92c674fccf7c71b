"""Multi-level rejection through the public draw: the softmax of cached scores, hits left out."""

import pytest
import torch
from dynamic import low_rank
from roster import problem

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.indexes.sg_tree import TreeClusters
from negcache.stores.reencoders import Corrector
from negcache.testing.conformance import chi_square_p


def sampler_over(store, num_negatives=8, **settings):
    return nc.contrib.DynamicIndexTree(store, num_negatives, TreeClusters(base=1.3), **settings)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("stale", [0.0, 0.5])
def test_draws_follow_the_softmax_of_cached_scores(stale, seed):
    request, _, store = problem(drift=stale, temperature=1.0)
    draw = draw_from(
        sampler_over(store, 2000, rounds=600), request, torch.Generator().manual_seed(seed)
    )
    logits = request.score(request.queries, store.table.embeddings)
    logits[request.exclude.rows, request.exclude.ids] = -torch.inf
    assert draw.metrics["not_found"] < 0.01
    torch.testing.assert_close(draw.log_z, logits.logsumexp(1), atol=0.05, rtol=0)
    for row, law in enumerate(logits.softmax(1)):
        alive = draw.log_weight[row] > -torch.inf
        counts = torch.bincount(draw.ids[draw.columns[row][alive]], minlength=len(law))
        assert counts[law == 0].sum() == 0, "known positives are never drawn"
        assert chi_square_p(counts, law * counts.sum()) > 1e-4


def test_what_is_not_found_is_drawn_by_the_clusters_and_told():
    request, _, store = problem(temperature=0.05)  # nothing is accepted at so high a scale
    draw = draw_from(sampler_over(store, rounds=1), request, torch.Generator().manual_seed(0))
    assert draw.metrics["not_found"] > 0.9
    assert draw.log_share.exp().sum(1).allclose(torch.ones(5, dtype=torch.float64))


def test_a_seed_says_what_is_drawn_and_state_goes_with_the_cache():
    request, items, _ = problem(temperature=1.0)
    first = low_rank(items)
    sampler = sampler_over(first)
    draw_from(sampler, request, torch.Generator())
    second = low_rank(items)
    other = sampler_over(second)
    second.load_state_dict(first.state_dict())
    draws = [
        draw_from(each, request, torch.Generator().manual_seed(5)) for each in (sampler, other)
    ]
    assert torch.equal(draws[0].ids, draws[1].ids)
    assert torch.equal(draws[0].log_weight, draws[1].log_weight)


def test_bad_input():
    request, items, store = problem()
    for settings in ({"num_negatives": 0}, {"rounds": 0}):
        with pytest.raises(nc.InputError, match="of 1 or more"):
            sampler_over(store, **settings)
    with pytest.raises(nc.InputError, match="scored as they are"):
        draw_from(sampler_over(low_rank(items, reencoder=Corrector())), request, torch.Generator())

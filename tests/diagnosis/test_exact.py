"""Every figure of a diagnosis against the slow truth, on a small case."""

import pytest
import torch
from asking import B, N, asked, plain, stale_loss

import negcache as nc
from negcache.diagnosis import Beside, diagnose
from negcache.diagnosis.asked import request_of
from negcache.diagnosis.exact import exact
from negcache.diagnosis.items import FreshItems, ItemSample
from negcache.encoder import without_dropout
from negcache.step import draw_negatives, encode_once, sampled_loss
from negcache.testing import reference

REPEATS = 12


def fresh_items(loss_fn):
    with torch.no_grad(), without_dropout(loss_fn.item_tower):
        return loss_fn.score.embed(loss_fn.item_tower(loss_fn.corpus))


def true_gradient(loss_fn, queries, positives, request):
    """Of the slow reference, by autograd, to queries and items."""
    queries, items = queries.clone().requires_grad_(), fresh_items(loss_fn).requires_grad_()
    losses = reference.full_softmax_losses(
        loss_fn.score(queries, items), positives, request.exclude
    )
    return losses, *torch.autograd.grad(losses.mean(), (queries, items))


@pytest.mark.parametrize("score", [nc.DotScore(0.3), nc.DotScore(0.5, absolute=True)])
def test_the_exact_softmax_is_that_of_the_reference(score):
    loss_fn = stale_loss(score=score)
    queries, positives, ids = asked()
    queries = score.embed(queries)
    request = request_of(loss_fn, queries, positives, ids)
    found = exact(request, FreshItems(loss_fn.encoder, N), ItemSample.of_all(N))
    losses, by_query, by_item = true_gradient(loss_fn, queries, positives, request)
    law = reference.softmax_law(request, fresh_items(loss_fn))
    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(found.losses, losses.detach(), **close)
    torch.testing.assert_close(found.queries, by_query, **close)
    torch.testing.assert_close(found.items, by_item, **close)
    log_z = reference.log_partition(request, fresh_items(loss_fn))
    torch.testing.assert_close(found.log_z, log_z, **close)
    entropy = torch.special.entr(law).sum(dim=1)
    torch.testing.assert_close(found.entropy, entropy, **close)
    for place in (0, 2, 15):
        cut = law.clamp(max=4.0**-place).sum(dim=1)
        torch.testing.assert_close(found.cut[:, place], cut, **close)


def test_several_positives_do_not_compete():
    loss_fn, (queries, positives, ids) = stale_loss(), asked(several=True)
    queries = loss_fn.score.embed(queries)
    request = request_of(loss_fn, queries, positives, ids)
    found = exact(request, FreshItems(loss_fn.encoder, N), ItemSample.of_all(N))
    wanted = []
    for row, own in enumerate(positives.tolist()):
        each = [
            reference.full_softmax_losses(
                loss_fn.score(queries[row : row + 1], fresh_items(loss_fn)),
                torch.tensor([one]),
                request.exclude.slice(row, row + 1),
            )
            for one in own
            if one >= 0
        ]
        wanted.append(torch.cat(each).mean())
    torch.testing.assert_close(found.losses, torch.stack(wanted), rtol=0, atol=1e-10)


def naive(loss_fn, sampler, request, positives, seed):
    """Gradients of the same draws, dense, one after the other."""
    generator, items, found = torch.Generator().manual_seed(seed), fresh_items(loss_fn), []
    for repeat in range(REPEATS + 1):
        draws = draw_negatives(sampler, loss_fn.estimator, request, generator)
        if repeat == 0:  # the one that is not counted
            continue
        queries, leaf = request.queries.clone().requires_grad_(), items.clone().requires_grad_()
        encoded = encode_once(positives, draws, lambda ids, leaf=leaf: leaf[ids])
        losses = sampled_loss(queries, positives, encoded, draws, loss_fn.score).losses
        found.append(torch.autograd.grad(losses.mean(), (queries, leaf)))
    return [torch.stack(side).flatten(1) for side in zip(*found, strict=True)]


def test_bias_and_spread_are_those_of_dense_gradients():
    loss_fn, (queries, positives, ids) = stale_loss(), asked()
    report = diagnose(loss_fn, queries, positives, ids, settings=plain(REPEATS))
    request = request_of(loss_fn, loss_fn.score.embed(queries), positives, ids)
    generator = torch.Generator().manual_seed(0)
    loss_fn.sampler.sampler.propose(request, generator)  # the law is settled once
    _, *truths = true_gradient(loss_fn, request.queries, positives, request)
    sides = naive(loss_fn, loss_fn.sampler, request, positives, 0)
    for found, side, truth in zip(
        (report.of("own").query, report.of("own").item), sides, truths, strict=True
    ):
        truth, mean = truth.flatten(), side.mean(dim=0)
        variance = float((side - mean).square().sum()) / (REPEATS - 1)
        bias = float((mean - truth).square().sum()) - variance / REPEATS
        size = float(truth.norm())
        assert found.bias == pytest.approx(max(bias, 0) ** 0.5 / size, abs=1e-6)
        assert found.sd == pytest.approx(variance**0.5 / size, abs=1e-6)
        cosines = torch.nn.functional.cosine_similarity(side, truth[None], dim=1)
        assert found.cosine_of_one == pytest.approx(float(cosines.mean()), abs=1e-6)
        assert found.bias <= found.bias_at_most


def test_laws_are_as_far_from_the_softmax_as_the_reference_says():
    loss_fn, (queries, positives, ids) = stale_loss(), asked()
    others = {"uniform": nc.Uniform(range(N), 3)}
    report = diagnose(loss_fn, queries, positives, ids, settings=plain(4), beside=Beside(others))
    request = request_of(loss_fn, loss_fn.score.embed(queries), positives, ids)
    p = reference.softmax_law(request, fresh_items(loss_fn))
    stored = loss_fn.store.rows(torch.arange(N)).double()
    allowed = ~request.exclude.mask(torch.arange(N))
    uniform = allowed.double() / allowed.sum(dim=1, keepdim=True)
    laws = {"own": reference.softmax_law(request, stored), "uniform": uniform}
    for name, q in laws.items():
        kl = torch.where(p > 0, p * (p / q).log(), 0.0).sum(dim=1).mean()
        assert report.of(name).kl == pytest.approx(float(kl), abs=1e-6)
        tv = (p - q).abs().sum(dim=1).mean() / 2
        assert report.of(name).tv == pytest.approx(float(tv), abs=1e-6)
    losses = true_gradient(loss_fn, request.queries, positives, request)[0].detach()
    assert report.loss == pytest.approx(float(losses.mean()), abs=1e-9)


def test_full_softmax_has_neither_bias_nor_spread():
    loss_fn, (queries, positives, ids) = stale_loss(nc.FullSoftmax), asked()
    found = diagnose(loss_fn, queries, positives, ids, settings=plain(4)).samplers[0]
    for tower in (found.query, found.item):
        assert max(tower.bias, tower.sd, 1 - tower.cosine, 1 - tower.cosine_of_one) < 1e-6
    assert found.partition == pytest.approx(1, abs=1e-9)
    assert found.p_value == 1
    assert found.encoded == N


def test_rows_are_as_stale_as_the_reference_says():
    loss_fn, (queries, positives, ids) = stale_loss(), asked()
    loss_fn.store.clock = 6  # of rows written at 0, and of some written since
    loss_fn.store.write(torch.arange(10), fresh_items(loss_fn)[:10])
    loss_fn.store.clock = 9
    found = diagnose(loss_fn, queries, positives, ids, settings=plain(4)).ages
    drift = reference.staleness(loss_fn.store.rows(torch.arange(N)).double(), fresh_items(loss_fn))
    assert [(each.youngest, each.oldest, each.rows) for each in found] == [
        (3, 3, 10),
        (9, 9, N - 10),
    ]
    assert found[0].error == pytest.approx(0, abs=1e-12)
    assert found[1].error == pytest.approx(float(drift[10:].mean()), abs=1e-6)
    assert B < N

"""Several positives, the rest form and mini-batches: the same loss, however it is computed."""

import pytest
import torch
from setting import B, D, N, Setting, Watched
from torch import nn

import negcache as nc
from negcache.encoder import ItemEncoder


def gradients(setting):
    parameters = [*setting.query_tower.parameters(), *setting.item_tower.parameters()]
    return [p.grad.clone() for p in parameters]


def test_several_positives_are_pick_all_labels():
    """The mean over a query's positives of -log softmax against the non-positives alone."""
    setting = Setting(nc.FullSoftmax)
    positives = torch.full((B, 4), -1)
    positives[:, 0], positives[::2, 2] = torch.arange(B), torch.arange(100, 100 + B)[::2]
    positives[0, 3] = 299
    features = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    setting.data.manual_seed(0)
    loss = setting.forward(positives=positives)
    score = setting.loss.score
    queries = score.embed(setting.query_tower(features))
    logits = score(queries, score.embed(setting.item_tower.net(setting.corpus)))
    losses = []
    for row in range(B):
        mine = [p for p in positives[row].tolist() if p >= 0]
        excluded = {*mine, row, row + B, row + 2 * B}  # the known ones, and those of this batch
        others = logits[row, [y for y in range(N) if y not in excluded]]
        each = [torch.logsumexp(torch.cat([logits[row, p][None], others]), 0) - logits[row, p]
                for p in mine]  # fmt: skip
        losses.append(torch.stack(each).mean())
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    ours, theirs = (
        torch.autograd.grad(x, setting.query_tower.weight)[0]
        for x in (loss, torch.stack(losses).mean())
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 2)),
        lambda store: nc.CachedRest(store, 20),
        lambda store: nc.InBatch(torch.full((N,), 1 / N).log()),
        lambda store: nc.SharedDraws(nc.Mixture(nc.CachedSoftmax(store, 1), nc.Uniform(store, 1))),
    ],
)
def test_one_positive_in_a_padded_row_is_that_positive(sampler):
    padded = torch.full((B, 3), -1)
    padded[:, 1] = torch.arange(B)
    one, other = Setting(sampler), Setting(sampler)
    for _ in range(3):
        torch.testing.assert_close(one.step(positives=padded), other.step())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_mini_batches_give_the_same_gradient_and_encode_each_item_twice(size):
    """Dropout draws its masks anew in the backward pass: from the state it had in the forward."""
    sampler = lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 2))  # noqa: E731
    whole, parts = Setting(sampler), Setting(sampler, mini_batch_size=size)
    for setting in (whole, parts):
        setting.item_tower.with_gradient.clear()
        setting.forward().backward()
    for ours, theirs in zip(gradients(parts), gradients(whole), strict=True):
        torch.testing.assert_close(ours, theirs)
    rows = parts.item_tower.with_gradient
    assert max(rows) <= size
    assert sum(rows) == sum(whole.item_tower.with_gradient) * (1 if size == 1000 else 2)


def test_mini_batches_with_dropout_repeat_their_masks():
    setting = Setting(nc.FullSoftmax, dropout=0.5, mini_batch_size=50)
    seen = []
    setting.item_tower.net[0].register_forward_hook(lambda m, x, y: seen.append(y.detach() == 0))
    setting.forward().backward()
    assert len(seen) == 12
    first, again = seen[:6], seen[6:]
    assert all(any(torch.equal(a, b) for b in again) for a in first)


def test_the_rest_keeps_value_and_query_gradient_exact_on_a_fresh_store():
    exact = Setting(nc.FullSoftmax)
    rest = Setting(lambda store: nc.CachedRest(store, 10), refresh=1.0)
    for _ in range(3):  # rho 1: the store is fresh at every step
        one, other = rest.forward(), exact.forward()
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
        ours, theirs = (
            torch.autograd.grad(x, s.query_tower.weight, retain_graph=True)[0]
            for x, s in ((one, rest), (other, exact))
        )
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_item_side_of_the_rest_is_divided_by_the_chance_to_be_encoded_as_a_negative_only(
    monkeypatch,
):
    """For the draw that was made: each item's gradient as SoftmaxLoss gives it, by hand."""
    setting = Setting(lambda store: Watched(nc.CachedRest(store, 10)))
    rows, encode = [], ItemEncoder.encode
    keep = lambda self, ids: rows.append((ids, encode(self, ids))) or rows[-1][1]  # noqa: E731
    monkeypatch.setattr(ItemEncoder, "encode", keep)
    loss = setting.forward()
    (ids, items), draw = rows[-1], setting.loss.sampler.draws[0]
    found = torch.autograd.grad(loss, items)[0]
    chance = torch.ones(N).index_copy(0, draw.ids, draw.rest.inclusion)[ids]
    assert (chance < 1).any()
    assert (chance[torch.isin(ids, torch.arange(B))] == 1).all()

    setting.data.manual_seed(0)
    queries = setting.loss.score.embed(
        setting.query_tower(torch.randn(B, D, generator=setting.data))
    ).detach()
    scale, excluded = setting.loss.score.scale.detach(), torch.isinf(draw.log_weight)
    place = torch.searchsorted(ids, draw.ids)
    logits = (scale * queries @ items.detach()[place].T).masked_fill(excluded, -torch.inf)
    positive = (scale * queries * items.detach()[:B]).sum(1)
    everything = torch.cat([positive[:, None], logits, draw.rest.log_mass[:, None]], 1)
    share = torch.softmax(everything, 1) / B
    wanted = torch.zeros_like(found)
    wanted[place] += scale * share[:, 1:-1].T @ queries / draw.rest.inclusion[:, None]
    wanted[:B] += scale * (share[:, :1] - 1 / B) * queries
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_the_draw_of_a_rest_is_the_same_under_autocast():
    plain, other = (Setting(lambda store: Watched(nc.CachedRest(store, 10))) for _ in range(2))
    plain.forward()
    queries = other.query_tower(torch.randn(B, D, generator=other.data))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other.loss(queries, torch.arange(B), torch.arange(B))
    one, two = (setting.loss.sampler.draws[0].rest.mean for setting in (plain, other))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_in_batch_knows_how_many_positives_the_others_have():
    """Nine positives against one: each query's estimate of Z- is unbiased over uniform batches."""
    generator = torch.Generator().manual_seed(0)
    sampler = nc.InBatch(torch.full((N,), -torch.tensor(float(N)).log().item()))
    score = nc.DotScore(0.5)
    queries = score.embed(torch.randn(2, D, generator=generator))
    items = score.embed(torch.randn(N, D, generator=generator))
    truth = score(queries, items).exp().sum(1)
    total, rounds = torch.zeros(2), 1500
    for _ in range(rounds):
        positives = torch.full((2, 9), -1)
        positives[0, 0] = torch.randint(N, (), generator=generator)
        positives[1] = torch.randperm(N, generator=generator)[:9]
        rows, columns = (positives >= 0).nonzero(as_tuple=True)
        exclude = nc.exclusion.Exclusion.from_pairs(rows, positives[rows, columns], 2)
        draw = sampler.draw(nc.messages.Request(queries, score, positives, exclude), generator)
        total += (score(queries, items[draw.ids]) + draw.log_weight).exp().sum(1) / rounds
    torch.testing.assert_close(total / truth, torch.ones(2), atol=0.1, rtol=0)


def test_a_batch_of_one_query_has_no_other_positives():
    draws = nc.SharedDraws(nc.Uniform(torch.zeros(N), 4), log_popularity=torch.zeros(N) - 5.7)
    alone = nc.messages.Request(
        torch.ones(1, D), nc.DotScore(), torch.tensor([3]),
        nc.exclusion.Exclusion.from_pairs(torch.tensor([0]), torch.tensor([3]), 1),
    )  # fmt: skip
    draw = draws.draw(alone, torch.Generator().manual_seed(0))
    alive = draw.log_weight[draw.log_weight > -torch.inf]
    assert alive.exp().sum().item() == pytest.approx(N - 1)


def test_mini_batches_refuse_batch_normalisation():
    tower = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(nc.InputError, match="batch normalisation"):
        nc.SoftmaxLoss(tower, torch.zeros(5, 2), nc.InBatch(), nc.DotScore(), mini_batch_size=2)


def test_a_query_without_any_positive_is_refused():
    setting = Setting(nc.FullSoftmax)
    positives = torch.arange(B)[:, None].clone()
    positives[3] = -1
    with pytest.raises(nc.InputError, match="a positive for every query"):
        setting.forward(positives=positives)


@pytest.mark.parametrize("size", [0, -3])
def test_a_mini_batch_of_nothing_is_refused(size):
    with pytest.raises(nc.InputError, match="mini_batch_size"):
        nc.SoftmaxLoss(
            nn.Linear(2, 2), torch.zeros(5, 2), nc.InBatch(), nc.DotScore(), mini_batch_size=size
        )

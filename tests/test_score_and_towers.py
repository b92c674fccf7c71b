"""The score object, and towers as the loss takes them."""

import torch

import negcache as nc


def test_every_pair_and_own_pairs_agree():
    score = nc.DotScore(0.2)
    queries, items = score.embed(torch.randn(3, 4)), score.embed(torch.randn(5, 4))
    own = score.paired(queries, items.expand(3, 5, 4))
    torch.testing.assert_close(score(queries, items), own)
    torch.testing.assert_close(score(queries, items), 5 * queries @ items.T)


def test_absolute_softmax_takes_the_absolute_logit():
    score, plain = nc.DotScore(0.2, absolute=True), nc.DotScore(0.2)
    queries, items = torch.randn(3, 4), torch.randn(5, 4)
    assert torch.equal(score(queries, items), plain(queries, items).abs())


def test_scores_stay_float32_under_autocast_and_with_half_precision_rows():
    score = nc.DotScore()
    queries = score.embed(torch.randn(3, 4).bfloat16())
    assert queries.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        logits = score(queries, torch.randn(5, 4).bfloat16())
        own = score.paired(queries, torch.randn(3, 2, 4).bfloat16())
    assert logits.dtype == own.dtype == torch.float32


def test_logits_can_be_written_into_given_memory():
    score, memory = nc.DotScore().requires_grad_(False), torch.empty(3, 5)
    queries, items = torch.randn(3, 4), torch.randn(5, 4)
    assert score(queries, items, out=memory).data_ptr() == memory.data_ptr()
    assert torch.equal(memory, score(queries, items))


def test_without_normalisation_rows_stay_as_they_are():
    rows = torch.randn(3, 4)
    assert torch.equal(nc.DotScore(normalize=False).embed(rows), rows)


def test_static_tower_is_the_mean_of_token_vectors_and_an_empty_text_is_the_bias():
    tower = nc.towers.StaticTower(10, 4, 6)
    texts = nc.towers.Bags(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]))
    rows = tower(texts)
    weight = tower.tokens.weight
    torch.testing.assert_close(rows[0], tower.out((weight[1] + weight[2]) / 2))
    torch.testing.assert_close(rows[2], tower.out.bias)


def test_a_free_vector_per_item_trains():
    """Classes without features: the corpus is the ids themselves."""
    table = nc.towers.IdTable(50, 8)
    store = nc.DenseCache(50, 8, refresh=0.1)
    sampler = nc.SharedDraws(nc.CachedSoftmax(store, 1))
    loss_fn = nc.SoftmaxLoss(table, torch.arange(50), sampler, nc.DotScore(0.1))
    optimizer = torch.optim.Adam(table.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(50, 8, generator=generator)
    losses = []
    for _ in range(60):
        picked = torch.randperm(50, generator=generator)[:16]
        loss = loss_fn(queries[picked], picked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_fn.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])

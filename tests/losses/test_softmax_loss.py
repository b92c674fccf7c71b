"""The loss a user calls: what is encoded, what is remembered, what is saved."""

import pytest
import torch
from pace import fast
from setting import B, D, N, Setting, Watched
from torch import nn

import negcache as nc
from negcache.admission import admit_excluded
from negcache.packing import from_bytes, to_bytes


def shared(store):
    return nc.SharedDraws(nc.CachedSoftmax(store, 2))


SAMPLERS = {
    "shared": shared,
    "cached": lambda store: nc.CachedSoftmax(store, 4),
    "uniform": lambda store: nc.SharedDraws(nc.Uniform(store, 4)),
    "in_batch": lambda store: nc.InBatch(),
    "full": nc.FullSoftmax,
    "rest": lambda store: nc.CachedRest(store, 20),
    "distinct": lambda store: nc.samplers.CachedDistinct(store, 3),
    "head_tail": lambda store: nc.samplers.HeadTail(store, 2, 2),
    "scored": lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 2, scored=0.5)),
    "popularity": lambda store: nc.SharedDraws(nc.Popularity(torch.arange(1, N + 1), 2)),
    "mixture": lambda store: nc.SharedDraws(
        nc.Mixture(nc.CachedSoftmax(store, 1), nc.Uniform(store, 2))
    ),
}


def test_each_distinct_item_is_encoded_once_and_the_refresh_is_counted():
    setting = Setting(lambda store: Watched(shared(store)))
    setting.loss.report()
    setting.item_tower.with_gradient.clear()
    setting.item_tower.without.clear()
    draws = setting.loss.sampler.draws
    for _ in range(5):
        setting.step()
        distinct = len(torch.cat([torch.arange(B), draws[-1].ids]).unique())
        report = setting.loss.report()
        assert setting.item_tower.with_gradient.pop() == distinct == report.encoded_grad
        assert setting.item_tower.without.pop() == N * 0.1 == report.encoded_nograd
        assert not setting.item_tower.with_gradient
        assert not setting.item_tower.without


def test_the_store_is_filled_before_the_first_step():
    setting = Setting(shared, fill=False)
    assert not setting.store.valid.any()
    setting.step()
    assert setting.store.valid.all()
    assert setting.loss.report().encoded_nograd == N + N * 0.1


def test_a_sampler_without_store_keeps_none():
    setting = Setting(SAMPLERS["uniform"])
    setting.step()
    assert setting.item_tower.without == []
    assert not setting.store.valid.any()


def test_every_encoded_row_is_written_back_in_the_step_that_encoded_it():
    setting = Setting(lambda store: Watched(shared(store)), refresh=0.0)
    draws = setting.loss.sampler.draws
    for clock in range(3):
        before = setting.store.table.embeddings.clone()
        fresh = setting.loss.score.embed(setting.item_tower.net(setting.corpus)).detach()
        setting.step()
        encoded = torch.cat([torch.arange(B), draws[-1].ids]).unique()
        others = torch.ones(N, dtype=torch.bool)
        others[encoded] = False
        torch.testing.assert_close(setting.store.table.embeddings[encoded], fresh[encoded])
        assert torch.equal(setting.store.table.embeddings[others], before[others])
        assert (setting.store.table.written[encoded] == clock).all()


def test_the_full_softmax_is_cross_entropy_with_its_gradient_to_the_temperature():
    setting = Setting(SAMPLERS["full"])
    score = setting.loss.score
    score.log_scale.requires_grad_(True)
    queries = setting.query_tower(torch.randn(B, D))
    positives, rows = torch.arange(B), torch.arange(B)
    loss = setting.loss(queries, positives, rows)
    logits = score(score.embed(queries), score.embed(setting.item_tower(setting.corpus)))
    excluded = setting.known.exclusion(rows, positives).mask(torch.arange(N))
    excluded[rows, positives] = False  # other known positives are no negatives
    truth = nn.functional.cross_entropy(logits.masked_fill(excluded, -torch.inf), positives)
    torch.testing.assert_close(loss, truth)
    ours, theirs = (torch.autograd.grad(x, score.log_scale)[0] for x in (loss, truth))
    torch.testing.assert_close(ours, theirs)
    report = setting.loss.report()
    assert report.masked_hits == pytest.approx(3 / N)
    assert report.loss == pytest.approx(truth.item(), abs=1e-4)


def test_own_negatives_beside_the_cached_partition_are_exact_on_a_fresh_store():
    setting = Setting(SAMPLERS["cached"], estimator=nc.cached_partition)
    exact = Setting(SAMPLERS["full"])
    negatives = torch.randint(3 * B, N, (B, 5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(setting.step(negatives), exact.step(), atol=1e-4, rtol=0)


def test_padding_costs_no_encoding():
    setting = Setting(SAMPLERS["in_batch"])
    setting.step(torch.full((B, 4), -1))
    assert setting.loss.report().encoded_grad == B


@pytest.mark.parametrize("where", ["fill", "refresh", "draw"])
def test_one_item_that_is_not_finite_is_named_and_never_cached(where):
    setting = Setting(shared, refresh=1.0 if where == "refresh" else 0.0, fill=where != "fill")
    setting.corpus[200] = torch.nan
    if where == "draw":
        other = setting.loss.sampler
        draw = nc.messages.Draw(torch.tensor([200]), None, torch.zeros(B, 1))
        other.draw = lambda *_: draw
    with pytest.raises(nc.InputError, match=r"NaN or inf in 1 .* ids \[200\]"):
        setting.step()
    assert setting.store.table.embeddings.isfinite().all()


def test_evaluation_leaves_the_noise_of_training_alone():
    one, other = Setting(shared), Setting(shared)
    other.loss.eval()
    with torch.no_grad():
        other.loss(torch.randn(B, D), torch.arange(B), torch.arange(B))
    other.loss.train()
    assert torch.equal(one.step(), other.step())
    assert one.loss.report().encoded_grad == other.loss.report().encoded_grad


def test_a_corpus_may_give_a_dictionary_of_features():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(D, D)

        def forward(self, features):
            return self.net(features["rows"])

    class Corpus:
        rows = torch.randn(N, D)

        def __len__(self):
            return N

        def __getitem__(self, ids):
            return {"rows": self.rows[ids]}

    store = nc.DenseCache(N, D)
    loss_fn = nc.SoftmaxLoss(Named(), Corpus(), shared(store), nc.DotScore())
    assert loss_fn(torch.randn(B, D), torch.arange(B)).isfinite()


def test_write_back_is_detached_and_the_rows_stay_when_the_encoder_moves():
    setting = Setting(shared, refresh=0.0)
    features = torch.randn(B, D)
    loss = setting.loss(setting.query_tower(features), torch.arange(B), torch.arange(B))
    before = setting.store.table.embeddings.clone()
    assert not setting.store.table.embeddings.requires_grad
    loss.backward(retain_graph=True)
    loss.backward()  # a second pass through the graph does not touch the store
    with torch.no_grad():
        for parameter in setting.item_tower.parameters():
            parameter.add_(1.0)
    assert torch.equal(setting.store.table.embeddings, before)
    fresh = setting.loss.score.embed(setting.item_tower(setting.corpus)).detach()
    assert not torch.allclose(setting.store.table.embeddings[:B], fresh[:B])


def test_refreshed_rows_equal_a_direct_encode_with_the_new_weights_without_dropout():
    setting = Setting(shared, refresh=0.1, dropout=0.5)
    setting.item_tower.train()
    setting.step()
    refreshed = (setting.store.table.written == 0).sum()
    assert refreshed == N  # all written in step 0: filled, drawn or refreshed
    setting.step()
    last = setting.store.table.written == 1
    setting.item_tower.eval()
    direct = setting.loss.score.embed(setting.item_tower(setting.corpus)).detach()
    close = torch.isclose(setting.store.table.embeddings, direct, atol=1e-6).all(1)
    assert (close & last).sum() >= N * 0.1  # the refreshed ones; drawn rows saw dropout
    setting.item_tower.train()


def test_modes_are_restored_after_the_refresh():
    setting = Setting(shared, dropout=0.5)
    setting.item_tower.net[0].eval()  # one frozen part
    setting.step()
    assert setting.item_tower.training
    assert not setting.item_tower.net[0].training


def test_nothing_is_written_in_evaluation():
    setting = Setting(shared)
    before = setting.store.table.written.clone(), setting.store.table.embeddings.clone()
    setting.loss.eval()
    setting.store.step()
    with torch.no_grad():
        setting.loss(torch.randn(B, D), torch.arange(B), torch.arange(B))
    assert torch.equal(setting.store.table.written, before[0])
    assert torch.equal(setting.store.table.embeddings, before[1])


@pytest.mark.parametrize("name", fast(SAMPLERS, "cached", "head_tail"))
def test_resume_equals_never_having_stopped(name):
    straight = Setting(SAMPLERS[name])
    for _ in range(10):
        straight.step()
    saved = straight.state()
    losses = [straight.step() for _ in range(50)]
    resumed = Setting(SAMPLERS[name], seed=99)
    resumed.corpus.copy_(straight.corpus)
    resumed.load(saved)
    assert all(torch.equal(loss, resumed.step()) for loss in losses)
    for ours, theirs in zip(resumed.loss.parameters(), straight.loss.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(resumed.store.table.embeddings, straight.store.table.embeddings)
    assert torch.equal(resumed.store.table.written, straight.store.table.written)


def test_state_dict_without_the_generator_would_not_resume():
    straight = Setting(shared)
    saved = straight.state()
    wrong = torch.Generator().manual_seed(5).get_state()
    own = from_bytes(saved[1]["_extra_state"])
    saved[1]["_extra_state"] = to_bytes(own | {"generator": wrong})
    losses = [straight.step() for _ in range(3)]
    resumed = Setting(shared)
    resumed.load(saved)
    assert not all(torch.equal(loss, resumed.step()) for loss in losses)


def test_a_state_without_a_store_is_refused_by_a_sampler_that_has_one():
    with pytest.raises(nc.InputError, match="a state saved with this sampler's store"):
        Setting(shared).load(Setting(SAMPLERS["uniform"]).state())


def test_own_negatives_count_once_and_are_left_out_of_the_draw():
    """With the full softmax for the rest, own negatives change nothing at all."""
    plain, beside = Setting(SAMPLERS["full"]), Setting(SAMPLERS["full"])
    negatives = torch.full((B, 3), -1)
    negatives[:, 0], negatives[:, 1] = torch.arange(100, 100 + B), torch.arange(100, 100 + B)
    negatives[:, 2] = torch.arange(B)  # each query's own positive: masked
    torch.testing.assert_close(beside.step(negatives), plain.step(), atol=1e-5, rtol=0)


def test_known_positives_are_never_drawn():
    setting = Setting(lambda store: Watched(SAMPLERS["cached"](store)))
    for _ in range(20):
        setting.step()
    excluded = {(b, b + shift) for b in range(B) for shift in (0, B, 2 * B)}
    for draw in setting.loss.sampler.draws:
        drawn = draw.ids[draw.columns]
        assert not {(b, int(i)) for b in range(B) for i in drawn[b]} & excluded


def test_learned_temperature_trains():
    setting = Setting(shared)
    setting.loss.score.log_scale.requires_grad_(True)
    optimizer = torch.optim.SGD([setting.loss.score.log_scale], lr=0.1)
    before = setting.loss.score.log_scale.item()
    setting.loss(torch.randn(B, D), torch.arange(B), torch.arange(B)).backward()
    optimizer.step()
    assert setting.loss.score.log_scale.item() != before


def test_report_is_plain_and_staleness_is_zero_on_a_fresh_store():
    setting = Setting(shared)
    setting.step()
    report = setting.loss.report()
    assert report.staleness == pytest.approx(0.0, abs=1e-9)
    assert 1 <= report.effective_sample_size <= 2 * B
    assert set(report.seconds) == {"draw", "encode", "loss", "write", "refresh"}
    setting.step()
    assert setting.loss.report().staleness > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positives": torch.full((B,), N)}, "positives between 0 and 299"),
        ({"positives": torch.full((B,), -1)}, "positives between 0 and 299"),
        ({"negatives": torch.full((B, 2), N)}, "negatives between -1 and 299"),
        ({"query_ids": None}, "query_ids with known_positives"),
        ({"queries": torch.randn(B + 1, D)}, "positives of shape"),
        ({"negatives": torch.zeros(B - 1, 2, dtype=torch.long)}, "negatives of shape"),
        ({"negatives": torch.zeros(B, dtype=torch.long)}, "negatives of shape"),
        ({"query_ids": torch.arange(B - 1)}, "query_ids of shape"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_bad_input_to_forward(arguments, message):
    setting = Setting(shared)
    call = {
        "queries": torch.randn(B, D),
        "positives": torch.arange(B),
        "query_ids": torch.arange(B),
    }
    forward = nc.SoftmaxLoss.forward
    forward = getattr(forward, "__wrapped__", forward)
    with pytest.raises(nc.InputError, match=message):
        forward(setting.loss, **call | arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nc.Uniform(torch.zeros(5), 6), "between 1 and the 5 items"),
        (lambda: nc.Uniform(torch.zeros(5), 0), "between 1 and the 5 items"),
        (lambda: nc.CachedSoftmax(nc.DenseCache(5, 2), 6), "between 1 and the 5 cached items"),
        (lambda: nc.SharedDraws(nc.InBatch()), "has_density"),
        (lambda: nc.DotScore(0.0), "temperature > 0"),
        (
            lambda: nc.SoftmaxLoss(nn.Linear(2, 2), torch.zeros(1, 2), nc.InBatch(), nc.DotScore()),
            "at least 2 items",
        ),
        (
            lambda: nc.SoftmaxLoss(
                nn.Linear(2, 2),
                torch.zeros(5, 2),
                nc.CachedSoftmax(nc.DenseCache(4, 2), 1),
                nc.DotScore(),
            ),
            "a store of the corpus' 5 items; got one of 4",
        ),
    ],
)
def test_bad_input_at_the_start(build, message):
    with pytest.raises(nc.InputError, match=message):
        build()


def without_checks(function):
    """As a user calls it: the tests' own check of types would speak first."""
    return getattr(function, "__wrapped__", function)


@pytest.mark.parametrize(
    "build",
    [
        lambda part: without_checks(nc.Uniform.__init__)(object.__new__(nc.Uniform), part, 2),
        lambda part: without_checks(nc.FullSoftmax.__init__)(object.__new__(nc.FullSoftmax), part),
        lambda part: without_checks(nc.samplers.log_uniform)(part, 2),
    ],
)
def test_a_store_of_some_items_is_not_drawn_from_as_if_it_were_all(build):
    with pytest.raises(nc.InputError, match=r"items with a length.*got SubsetCache.*range\(N\)"):
        build(nc.SubsetCache(N, D, N // 2))


@pytest.mark.parametrize(
    "build",
    [
        lambda store: nc.Popularity(torch.ones(N - 1), 2),
        lambda store: nc.Uniform(range(N + 1), 2),
        lambda store: nc.FullSoftmax(range(N - 1)),
        lambda store: nc.InBatch(torch.full((N - 1,), 1 / N).log()),
        lambda store: nc.SharedDraws(
            nc.Uniform(store, 1), log_popularity=torch.full((N - 1,), 1 / N).log()
        ),
        lambda store: nc.Mixture(nc.CachedSoftmax(store, 1), nc.Uniform(range(N - 1), 1)),
    ],
)
def test_a_sampler_over_another_number_of_items_is_refused(build):
    with pytest.raises(nc.InputError, match=f"the corpus' {N} items.*one over"):
        Setting(build).step()


def test_known_positives_may_come_with_the_batch():
    """Listed in ``exclude`` they count as little as those that are known ahead; padding is none."""
    setting = Setting(SAMPLERS["full"])
    queries, rows = torch.randn(B, D), torch.arange(B)
    ahead = setting.loss(queries, rows, rows, reduction="none")
    known = setting.known.exclusion(rows, rows)
    exclude = torch.full((B, int(known.counts.max()) + 1), -1)
    for row in range(B):
        ids = known.slice(row, row + 1).ids
        exclude[row, : len(ids)] = ids
    setting.loss.known_positives = None
    assert not torch.allclose(ahead, setting.loss(queries, rows, reduction="none"))
    torch.testing.assert_close(
        setting.loss(queries, rows, exclude=exclude, reduction="none"), ahead
    )
    with pytest.raises(nc.InputError, match=r"exclude of shape \(\d+, x\)"):
        admit_excluded(queries, exclude[1:])

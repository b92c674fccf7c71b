"""What a diagnosis says of samplers, and that it leaves everything as it was."""

from dataclasses import replace

import pytest
import torch
from asking import B, N, asked, plain, stale_loss
from setting import Setting

import negcache as nc
from negcache.diagnosis import Beside, Settings, diagnose
from negcache.draws import draw as draw_from
from negcache.packing import pack
from negcache.samplers import CachedDistinct, StaleTopK

P = torch.arange(N).float().add(1).div(N * (N + 1) / 2).log()
"""log pi of every item."""


class Overweighing:
    """A sampler whose draws stand for a third more than they do."""

    has_density = False

    def __init__(self, sampler):
        self.sampler, self.store = sampler, sampler.store

    def draw(self, request, generator):
        found = draw_from(self.sampler, request, generator)
        return replace(found, weight=found.weight + 0.3)


slow = pytest.mark.slow
BUILDS = {
    "auto": lambda store: "auto",
    "shared": lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 1)),
    "rest": lambda store: nc.CachedRest(store, 12),
    "quadratic": lambda store: nc.SharedDraws(nc.quadratic(store, 2)),
    "scored": lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 1, scored=0.5)),
    "distinct": lambda store: CachedDistinct(store, 3),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("auto", "quadratic") else slow) for name in BUILDS],
)
def test_everything_is_left_as_it_was(name):
    """Also in the middle of training, with dropout; and training goes on as if nothing had been."""
    asked_of, never = (Setting(BUILDS[name], dropout=0.3) for _ in range(2))
    for _ in range(3):
        asked_of.step()
    never.load(asked_of.state())
    asked_of.loss.item_tower.net.eval()
    torch_state = torch.get_rng_state()
    before, modes = _state(asked_of), [each.training for each in asked_of.loss.modules()]
    with torch.no_grad():
        queries = asked_of.query_tower(asked_of.corpus[:B])
    diagnose(asked_of.loss, queries, torch.arange(B), torch.arange(B), settings=Settings(4))
    assert [each.training for each in asked_of.loss.modules()] == modes
    assert torch.equal(torch.get_rng_state(), torch_state)
    after = _state(asked_of)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert all(each.grad is None for each in [queries])
    asked_of.loss.item_tower.net.train()
    torch.manual_seed(4)
    ours = [asked_of.step() for _ in range(2)]
    torch.manual_seed(4)
    assert torch.equal(torch.stack(ours), torch.stack([never.step() for _ in range(2)]))


def _state(setting):
    tree, tensors = pack(setting.state()[:3])
    return {**tensors, "tree": torch.tensor(list(repr(tree).encode()))}


def test_weights_that_lie_are_found_out_and_honest_ones_are_not():
    loss_fn, (queries, positives, ids) = stale_loss(), asked()
    store = loss_fn.store
    honest = {
        "each": nc.CachedSoftmax(store, 2),
        "with batch": nc.SharedDraws(nc.CachedSoftmax(store, 1), log_popularity=P),
    }
    lying = {
        "over": Overweighing(nc.SharedDraws(nc.Uniform(range(N), 1))),
        "top": StaleTopK(store, 5),
    }
    # as often among the targets as pi says
    partners = torch.multinomial(
        P.exp().double(), 20_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    beside = Beside(honest | lying, partners=partners)
    found = diagnose(loss_fn, queries, positives, ids, settings=plain(12), beside=beside)
    for name in ("own", *honest):
        assert found.of(name).p_value > 1e-3, name
    for name in lying:
        assert found.of(name).p_value < 1e-3, name


def test_negatives_of_the_batch_change_with_the_batch():
    """With partners the noise of the batch is spread; without, it counts as bias."""
    loss_fn, (queries, positives, ids) = stale_loss(lambda store: nc.InBatch(P)), asked()
    partners = torch.multinomial(P.exp().double(), 5_000, replacement=True)
    fixed, moving = (
        diagnose(
            loss_fn, queries, positives, ids, settings=plain(24), beside=Beside(partners=each)
        ).samplers[0]
        for each in (None, partners)
    )
    assert fixed.query.sd < 1e-6
    assert moving.query.sd > 0.1
    assert moving.query.bias < fixed.query.bias


def test_suspects_are_counted_among_draws_and_in_the_softmax():
    loss_fn, (queries, positives, ids) = stale_loss(nc.FullSoftmax), asked()
    other = nc.KnownPositives.from_pairs(torch.arange(B), torch.arange(B) + 30)
    beside = Beside(suspects={"test": other})
    found = diagnose(loss_fn, queries, positives, ids, settings=plain(4), beside=beside)
    # of a query's 60 items two are its positives, and one is a positive of the other split
    assert found.samplers[0].false_negatives["test"] == pytest.approx(1 / 58)
    assert 0 < found.softmax_false_negatives["test"] < 0.5


@slow
@pytest.mark.parametrize("seed", range(3))
def test_a_sample_of_items_says_what_all_say_within_its_error(seed):
    loss_fn, (queries, positives, ids) = stale_loss(), asked()
    whole = diagnose(loss_fn, queries, positives, ids, settings=plain(16))
    settings = plain(16, items=20, seed=seed)
    part = diagnose(loss_fn, queries, positives, ids, settings=settings)
    assert part.sampled < N
    assert 0 < part.truth_error < 0.3
    assert abs(part.loss - whole.loss) < 0.3
    assert abs(part.of("own").query.bias - whole.of("own").query.bias) < 3 * part.truth_error
    assert part.of("own").query.bias_at_most > whole.of("own").query.bias
    assert abs(part.of("own").item.sd / whole.of("own").item.sd - 1) < 0.5


def test_queries_come_in_batches_that_share_their_draws():
    loss_fn, (queries, positives, ids) = stale_loss(), asked()
    found = diagnose(loss_fn, queries, positives, ids, settings=plain(8, batch_size=3))
    assert (found.queries, found.batch_size) == (6, 3)
    assert found.figures()["samplers"][0]["query"]["bias"] == found.of("own").query.bias


def test_figures_are_plain():
    loss_fn, (queries, positives, ids) = stale_loss(), asked()
    beside = Beside({"half": nc.CachedSoftmax(nc.SubsetCache(N, 6, size=30), 1)})
    beside.samplers["half"].store.write(torch.arange(N), torch.randn(N, 6))
    found = diagnose(loss_fn, queries, positives, ids, settings=plain(4), beside=beside)
    assert found.of("half").kl == float("inf")  # it misses half of the items
    assert found.figures()["samplers"][1]["kl"] is None


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda: Settings(3), "4 repeats or more"),
        (lambda: diagnose(stale_loss(), *asked()[:2]), "query_ids"),
        (lambda: diagnose(_stream(), *asked()[:2]), "a corpus of all items"),
        (lambda: diagnose(_empty(), *asked()), "a store with rows"),
        (lambda: diagnose(stale_loss(), *asked(), settings=plain(4, items=0)), "1 item or more"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(how, told):
    with pytest.raises(nc.InputError, match=told):
        how()


def _stream():
    cache = nc.StreamingCache(size=10, dim=6)
    return nc.SoftmaxLoss(
        torch.nn.Identity(), cache, nc.SharedDraws(nc.CachedSoftmax(cache, 1)), nc.DotScore()
    )


def _empty():
    loss_fn = stale_loss()
    loss_fn.store.table.let_go(torch.arange(N))
    return loss_fn

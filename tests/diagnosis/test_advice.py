"""Every kind of advice is followed, and its figure moves as foretold: on words and definitions."""

import pytest
import torch
from asking import D, N, asked, stale_loss
from wordnet_slice import write_slice

import negcache as nc
from negcache.diagnosis import Beside, Settings, diagnose
from negcache.diagnosis.advice import SAME, SEEN, is_less
from negcache.diagnosis.variants import younger_ages
from negcache.run.data import open_task
from negcache.samplers import StaleTopK
from negcache.towers import StaticTower

BATCH, COUNT = 16, 1500

FORETOLD, RETRAINED = 0.12, 0.3
"""How far a figure may be from what was said, relatively; where a run is trained anew."""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_task(str(write_slice(tmp_path_factory.mktemp("words") / "task", COUNT)))


class Trained:
    """Towers and a loss after so many steps over a cache that is looked at again."""

    def __init__(self, task, sampler, *, steps=60, rho=0.005, lr=3e-3, state=None):
        torch.manual_seed(0)
        self.task, self.pairs = task, task.learnable("train")
        self.query_tower = StaticTower(task.vocab_size, 16)
        store = nc.DenseCache(len(task.corpus), 16, refresh=rho)
        self.loss = nc.SoftmaxLoss(
            StaticTower(task.vocab_size, 16), task.corpus, sampler(store), nc.DotScore(0.1),
            known_positives=task.known_positives("train"),
        )  # fmt: skip
        if state is not None:
            for part, saved in zip((self.query_tower, self.loss), state, strict=True):
                part.load_state_dict(saved)
            return
        parameters = [*self.query_tower.parameters(), *self.loss.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=lr)
        self.loss.step_with(optimizer)
        noise = torch.Generator().manual_seed(0)
        for _ in range(steps):
            some = torch.randint(len(self.pairs), (BATCH,), generator=noise)
            queries = self.pairs.queries[some]
            loss = self.loss(
                self.query_tower(task.queries[queries]), self.pairs.items[some], queries
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @property
    def state(self):
        return self.query_tower.state_dict(), self.loss.state_dict()

    def diagnose(self, seed=0, repeats=24):
        some = torch.arange(2 * BATCH) * 5
        with torch.no_grad():
            queries = self.query_tower(self.task.queries[self.pairs.queries[some]])
        return diagnose(
            self.loss, queries, self.pairs.items[some], self.pairs.queries[some],
            settings=Settings(repeats, batch_size=BATCH, seed=seed),
            beside=Beside(partners=self.pairs.items),
        )  # fmt: skip


def shared(store, each=1, **settings):
    return nc.SharedDraws(nc.CachedSoftmax(store, each), **settings)


def popularity(task):
    counts = torch.bincount(task.learnable("train").items, minlength=len(task.corpus))
    return (counts / counts.sum()).log()


FOLLOWED = {
    "draws": lambda task: lambda store: shared(store, 2),
    "batch": lambda task: lambda store: shared(store, log_popularity=popularity(task)),
    "uniform": lambda task: lambda store: nc.SharedDraws(nc.Uniform(task.corpus, 1)),
}


@pytest.fixture(scope="module")
def now(task):
    """A trained loss, and what is said of it."""
    trained = Trained(task, shared)
    return trained, trained.diagnose()


def test_each_kind_is_said_once_with_figures_that_are_there():
    beside = Beside(partners=torch.arange(N))
    found = diagnose(stale_loss(), *asked(), settings=Settings(4), beside=beside)
    assert [each.kind for each in found.advice] == ["batch", "draws", "uniform"]
    own = found.of(found.own)
    for each in found.advice:
        measured = found.of(each.measured)
        assert each.before == getattr(own, each.figure)
        assert each.after == getattr(measured, each.figure)
        assert each.encodings == pytest.approx(measured.cost / own.cost)
        for figure in (each.before, each.after):
            assert f"{figure:.2f}" in each.sentence


def test_the_most_helpful_comes_first_and_what_moves_nothing_is_left_out():
    """Of fresh rows more looks make nothing better; what takes least for an exact step is first."""
    beside = Beside(partners=torch.arange(N))
    for move in (0, 0.3):
        found = diagnose(stale_loss(move=move), *asked(), settings=Settings(4), beside=beside)
        assert "own: 40.00% instead of 10.00% of the rows looked at a step" in [
            each.name for each in found.samplers
        ]
        helpful = found.advice[:2]
        assert [each.kind for each in found.advice] == ["batch", "draws", "uniform"]
        efforts = [found.of(each.measured).effort for each in helpful]
        assert efforts == sorted(efforts)
        for each in helpful:
            assert each.before - each.after >= max(SEEN, SAME * each.before)


@pytest.mark.parametrize(
    ("before", "after", "is_told"),
    [(0.5, 0.47, True), (0.5, 0.48, False), (0.009, 0.001, False), (0.0, 0.0, False),
     (float("inf"), float("inf"), False), (0.5, 0.6, False)],
)  # fmt: skip
def test_what_counts_as_less(before, after, is_told):
    assert is_less(after, before) is is_told


def test_where_nothing_is_to_be_said_that_is_said():
    full = diagnose(stale_loss(nc.FullSoftmax), *asked(), settings=Settings(4))
    assert full.advice == []
    assert "no variants" in full.silence


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOLLOWED)
def test_advice_that_is_followed_keeps_its_word(task, now, kind):
    """The same towers and rows, with what was advised, looked at with other noise."""
    trained, found = now
    (told,) = [each for each in found.advice if each.kind == kind]
    query_tower, loss = trained.state
    if kind == "uniform":  # keeps no store
        tower = {name: value for name, value in loss.items() if name.startswith("item_tower")}
        changed = Trained(task, FOLLOWED[kind](task), steps=0)
        changed.query_tower.load_state_dict(query_tower)
        changed.loss.load_state_dict(changed.loss.state_dict() | tower)
    else:
        changed = Trained(task, FOLLOWED[kind](task), state=(query_tower, loss))
    then = changed.diagnose(seed=1).of("own")
    assert getattr(then, told.figure) == pytest.approx(told.after, rel=FORETOLD)
    assert then.cost / found.of("own").cost == pytest.approx(told.encodings, rel=0.05)


@pytest.mark.slow
def test_advice_for_a_mixture_keeps_its_word(task):
    """Both parts doubled; younger rows are tried for its cached part alone."""

    def mixed(each, over):
        corpus = range(len(task.corpus))
        return lambda store: nc.SharedDraws(
            nc.Mixture(nc.CachedSoftmax(store, each), nc.Uniform(corpus, over))
        )

    trained = Trained(task, mixed(1, 2), steps=100, rho=0.002, lr=1e-2)
    found = trained.diagnose()
    told = {each.kind: each for each in found.advice}
    assert told.keys() >= {"draws", "batch", "uniform"}
    assert any("rows looked at a step" in each.name for each in found.samplers)
    doubled = Trained(task, mixed(2, 4), state=trained.state, rho=0.002)
    then = doubled.diagnose(seed=1).of("own")
    assert then.sd == pytest.approx(told["draws"].after, rel=FORETOLD)
    assert then.cost / found.of("own").cost == pytest.approx(told["draws"].encodings, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "rho"), [(100, 0.002), (200, 0.001)])
def test_rows_that_are_looked_at_more_often_are_worth_what_was_foretold(task, steps, rho):
    """A second training, with four times the refresh: its law is about as near as was said."""
    rarely = Trained(task, shared, steps=steps, rho=rho, lr=1e-2).diagnose(repeats=4)
    (told,) = [each for each in rarely.advice if each.kind == "refresh"]
    often = Trained(task, shared, steps=steps, rho=4 * rho, lr=1e-2).diagnose(repeats=4)
    then = often.of("own")
    assert told.after < 0.9 * told.before
    assert then.kl == pytest.approx(told.after, rel=RETRAINED)
    assert then.cost / rarely.of("own").cost == pytest.approx(told.encodings, rel=0.1)


def test_draws_that_do_as_well_and_weights_that_lie_are_told_of():
    """Of rows that are not known at all uniform draws do better; of popularity as even, as well."""
    loss_fn = stale_loss(move=0)
    found = diagnose(loss_fn, *asked(), settings=Settings(6))
    (told,) = [each for each in found.advice if each.kind == "uniform"]
    assert told.sentence.startswith("Uniform draws would do as well")
    assert "with no cache to keep" in told.sentence
    loss_fn.store.write(torch.arange(N), torch.randn(N, D, generator=torch.Generator()))
    found = diagnose(loss_fn, *asked(), settings=Settings(6))
    told = {each.kind: each.sentence for each in found.advice}
    assert told["uniform"].startswith("Uniform draws would do better")
    even = stale_loss(lambda store: nc.SharedDraws(nc.Popularity(torch.ones(N), 2)))
    found = diagnose(even, *asked(), settings=Settings(64))
    assert "uniform" not in [each.kind for each in found.advice], "there is no cache to be without"
    loss_fn = stale_loss(lambda store: StaleTopK(store, 5))
    found = diagnose(loss_fn, *asked(), settings=Settings(4))
    (advice,) = found.advice
    assert (advice.kind, advice.measured) == ("weights", "own")
    assert f"comes out {found.of('own').partition:.2f} x the true one" in advice.sentence


def test_rows_are_as_young_as_more_looks_make_them():
    """Among rows that training writes at random, worked out step by step."""
    noise, size, rho, more = torch.Generator().manual_seed(0), 2000, 0.002, 0.008
    ages = {rate: torch.zeros(size, dtype=torch.int64) for rate in (rho, more)}
    for _ in range(1500):
        written = torch.rand(size, generator=noise) < torch.arange(size) / size / 100
        for rate, each in ages.items():
            each += 1
            each[each.argsort(descending=True)[: int(rate * size)]] = 0
            each[written] = 0
    found = younger_ages(ages[rho], rho, more)
    assert float(found.max()) == pytest.approx(float(ages[more].max()), rel=0.15)
    assert float(found.float().mean()) == pytest.approx(float(ages[more].float().mean()), rel=0.1)

"""What is said of ``auto``: its choice, what it foretold, and what its next choices are worth."""

import pytest
import torch
from asking import asked, stale_loss
from pace import fast, slow
from wordnet_slice import write_slice

import negcache as nc
from negcache.diagnosis import Beside, Settings, diagnose
from negcache.diagnosis.choices import named
from negcache.ops.gradient_cosine import Extrapolated, Moments
from negcache.run.data import open_task
from negcache.samplers.look import Choice
from negcache.towers import StaticTower

BATCH, COUNT, STEPS = 32, 800, 60

FORETOLD = 0.12
"""How far a measured cosine may be from what was foretold of it, relatively."""

REPEATED = 0.05
"""How far what is worth so much may be from it, when it is done: other noise, another sampler."""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_task(str(write_slice(tmp_path_factory.mktemp("words") / "task", COUNT)))


def log_shares(task):
    counts = torch.bincount(task.learnable("train").items, minlength=len(task.corpus))
    return (counts / counts.sum()).log()


class Trained:
    """Towers and a loss after some steps; or those of another with a sampler of one's own."""

    def __init__(self, task, sampler, like=None):
        torch.manual_seed(0)
        self.task, self.pairs = task, task.learnable("train")
        self.query_tower = StaticTower(task.vocab_size, 16)
        self.loss = nc.SoftmaxLoss(
            StaticTower(task.vocab_size, 16), task.corpus, sampler, nc.DotScore(0.1),
            known_positives=task.known_positives("train"),
        )  # fmt: skip
        if like is None:
            return self._train()
        self.query_tower.load_state_dict(like.query_tower.state_dict())
        self.loss.item_tower.load_state_dict(like.loss.item_tower.state_dict())
        self.loss.fill_cache()

    def _train(self):
        parameters = [*self.query_tower.parameters(), *self.loss.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=3e-3)
        self.loss.step_with(optimizer)
        noise = torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            some = torch.randint(len(self.pairs), (BATCH,), generator=noise)
            queries = self.pairs.queries[some]
            rows = self.query_tower(self.task.queries[queries])
            optimizer.zero_grad()
            self.loss(rows, self.pairs.items[some], queries).backward()
            optimizer.step()

    def diagnose(self, seed=0, batch_size=BATCH):
        some = torch.arange(4 * BATCH) * 5
        with torch.no_grad():
            queries = self.query_tower(self.task.queries[self.pairs.queries[some]])
        return diagnose(
            self.loss, queries, self.pairs.items[some], self.pairs.queries[some],
            settings=Settings(8, batch_size=batch_size, seed=seed),
            beside=Beside(partners=self.pairs.items),
        )  # fmt: skip


@pytest.fixture(scope="module")
def trained(task):
    return Trained(task, nc.samplers.Auto(task.corpus, log_popularity=log_shares(task)))


@pytest.fixture
def believing(trained):
    """The same with a budget that has seen other cosines: what it takes is wrong, or dear."""
    budget = trained.loss.sampler.budget
    before, seen = budget.choice, budget.seen

    def believe(choice, others):
        good = Moments(1.0, 0.9, 1.0)
        budget.seen = dict.fromkeys((choice, *others), Extrapolated(good, good))
        budget.choice = choice
        if choice.cached:
            trained.loss.sampler._make_store(torch.device("cpu"))
            trained.loss.fill_cache()
        return trained

    yield believe
    trained.loss.sampler.store = None
    budget.choice, budget.seen = before, seen


def kinds(found):
    return [each.kind for each in found.advice if each.kind in ("foretold", "choice")]


def test_what_was_foretold_is_what_is_measured(trained):
    """Not where batches are of another size than those that were looked at."""
    found = trained.diagnose()
    assert kinds(found) == ["foretold", "choice"]
    own = found.of("own")
    (told,) = [each for each in found.advice if each.kind == "foretold"]
    assert told.before == trained.loss.sampler.budget.cosines[trained.loss.sampler.choice]
    assert told.after == own.query.cosine_of_one
    assert own.query.cosine_of_one == pytest.approx(told.before, rel=FORETOLD)
    assert f"{told.before:.2f}" in told.sentence
    assert f"{told.after:.2f}" in told.sentence
    assert named(trained.loss.sampler.choice) in told.sentence
    assert own.outlook.cost == 1e3 * trained.loss.sampler.budget.cost(trained.loss.sampler.choice)
    figures = found.figures()["samplers"]
    assert figures[0]["outlook"]["choice"] == list(trained.loss.sampler.choice)
    assert figures[0]["worth"] == pytest.approx(own.outlook.cost / own.cosine**2)
    assert kinds(trained.diagnose(batch_size=16)) == ["choice"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        slow(Choice(0), ["4 uniform", "4 uniform, 8 cached of 25% of the rows"]),
        (Choice(16), ["4 uniform", "64 uniform", "4 uniform, 8 cached of 25% of the rows"]),
        slow(Choice(4, 32), [f"4 uniform, {n} cached of 100% of the rows" for n in (8, 128)]
             + ["the batch's positives alone"]),
    ],
)  # fmt: skip
def test_choices_near_by_and_the_best_of_the_other_kind_are_measured(believing, choice, names):
    """Equally true: the cheapest. The sampler is left as it is."""
    trained = believing(choice, [Choice(0), Choice(400), Choice(4, 32), Choice(4, 8, 0.25)])
    before, store = trained.loss.sampler.state_dict(), trained.loss.sampler.store
    found = [each.name for each in trained.diagnose().samplers]
    assert found == ["own", *(f"own: {name}" for name in names)]
    assert trained.loss.sampler.state_dict()["budget"] == before["budget"]
    assert trained.loss.sampler.store is store, "cached draws are tried over rows of their own"


FOLLOWED = {
    "batch": (Choice(4, 128), Choice(0)),
    "uniform": (Choice(256), Choice(64)),
    "cached": (Choice(4, 128), Choice(4, 32)),
}


def followed(kind, task):
    """What is advised, as a sampler that does nothing else."""
    log_pi, cache = log_shares(task), nc.DenseCache(len(task.corpus), 16, refresh=32 / COUNT)
    return {
        "batch": lambda: nc.InBatch(log_pi),
        "uniform": lambda: nc.SharedDraws(nc.Uniform(task.corpus, 2), log_popularity=log_pi),
        "cached": lambda: nc.SharedDraws(nc.CachedSoftmax(cache, 1), log_popularity=log_pi),
    }[kind]()


@pytest.mark.parametrize("kind", fast(FOLLOWED, "uniform"))
def test_a_better_choice_that_is_taken_is_worth_what_was_said(task, trained, believing, kind):
    """Far too many draws are dear: another choice is told of first, and comes to what was said."""
    taken, other = FOLLOWED[kind]
    found = believing(taken, [other]).diagnose()
    assert kinds(found) == ["choice", "foretold"]
    (told,) = [each for each in found.advice if each.kind == "choice"]
    assert named(other) in told.sentence
    assert told.after < 0.95 * told.before
    assert f"{told.after / told.before:.2f} x as much" in told.sentence
    then = Trained(task, followed(kind, task), like=trained).diagnose(seed=1).of("own")
    cost = 1e3 * trained.loss.sampler.budget.cost(other)
    assert cost / then.cosine**2 == pytest.approx(told.after, rel=REPEATED)


def test_a_choice_that_holds_is_said_to_hold(believing):
    found = believing(Choice(0), [Choice(256)]).diagnose()
    (told,) = [each for each in found.advice if each.kind == "choice"]
    assert told.sentence.startswith("No other choice that was measured is worth more")
    assert told.after > told.before
    assert found.of(told.measured).worth == told.after


def test_nothing_is_said_of_what_has_not_begun():
    found = diagnose(stale_loss(lambda store: "auto"), *asked(), settings=Settings(4))
    assert kinds(found) == []
    assert found.of("own").outlook is None

"""The training step over a low-rank cache, on real texts: it learns, resumes, and stays close."""

import copy
import re
from itertools import pairwise

import pytest
import torch
from pace import fast, slow

import negcache as nc
from negcache.run.data.wordnet import entries
from negcache.stores import LowRankCache
from negcache.stores.reading import embeddings
from negcache.stores.reencoders import Corrector, Identity, Ridge

N, D, BATCH = 600, 32, 32


WORDS: dict[str, int] = {}


class Texts:
    """Texts as bags of words."""

    def __init__(self, texts):
        self.texts = [
            torch.tensor([WORDS.setdefault(word, len(WORDS)) for word in words])
            for words in (re.findall(r"[a-z]+", text.lower()) for text in texts)
        ]

    def first(self, count):
        some = Texts([])
        some.texts = self.texts[:count]
        return some

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, ids):
        chosen = [self.texts[i] for i in ids.tolist()]
        lengths = torch.tensor([0, *(len(text) for text in chosen[:-1])])
        return nc.towers.Bags(torch.cat(chosen), lengths.cumsum(0))


NOUNS = [entry for entry in entries() if entry.pos == "n"][1000 : 1000 + N]
QUERIES = Texts([", ".join(entry.lemmas) for entry in NOUNS])
ITEMS = Texts([f"{', '.join(e.lemmas)} : {e.definition}" for e in NOUNS])


class Run:
    """Words -> definition, negatives drawn by the rows of a low-rank cache."""

    def __init__(self, seed=0, items=N, **settings):
        torch.manual_seed(seed)
        self.corpus = ITEMS.first(items)
        self.queries, tower = (nc.towers.StaticTower(len(WORDS), D) for _ in range(2))
        defaults = {"landmarks": 16, "every": 20, "sample": 200, "full_below": 0.0}
        self.store = LowRankCache(items, D, **defaults | settings)
        sampler = nc.SharedDraws(nc.CachedSoftmax(self.store, 2))
        self.loss = nc.SoftmaxLoss(tower, self.corpus, sampler, nc.DotScore(0.1), seed=seed)
        parameters = [*self.queries.parameters(), *tower.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=3e-3)
        self.order = torch.Generator().manual_seed(seed)

    def steps(self, count):
        losses = []
        for _ in range(count):
            ids = torch.randint(len(self.corpus), (BATCH,), generator=self.order)
            loss = self.loss(self.queries(QUERIES[ids]), ids)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.loss.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    def parts(self):
        return self.queries, self.loss, self.optimizer

    def state(self):
        return copy.deepcopy([*(p.state_dict() for p in self.parts()), self.order.get_state()])

    def load(self, state):
        for part, saved in zip(self.parts(), state, strict=False):
            part.load_state_dict(saved)
        self.order.set_state(state[-1])

    @torch.no_grad()
    def exact_loss(self):
        items = self.loss.score.embed(self.loss.item_tower(ITEMS[torch.arange(N)]))
        queries = self.loss.score.embed(self.queries(QUERIES[torch.arange(N)]))
        logits = self.loss.score(queries, items)
        return float(torch.nn.functional.cross_entropy(logits, torch.arange(N)))

    @torch.no_grad()
    def cosine(self):
        """Of all cached rows with what the items look like now."""
        items = self.loss.score.embed(self.loss.item_tower(ITEMS[torch.arange(N)]))
        cached = embeddings(self.store, torch.arange(N))
        return float(torch.cosine_similarity(cached, items).mean())


REENCODERS = {
    "anchored": Ridge,
    "compose": lambda: Ridge("compose"),
    "corrector": lambda: Corrector(width=64, steps=50),
}


@pytest.mark.parametrize("name", fast(REENCODERS, "anchored"))
def test_it_trains(name):
    run = Run(reencoder=REENCODERS[name]())
    before = run.exact_loss()
    run.steps(60)
    assert run.loss.report().encoded_nograd == N + 4 * 200
    assert run.exact_loss() < before - 1.0
    assert run.store.fits == 4


@pytest.mark.parametrize(
    ("name", "stop"),
    [slow("anchored", 10), slow("anchored", 45), ("compose", 45), slow("corrector", 10)],
)
def test_a_resumed_run_equals_one_that_never_stopped(name, stop, tmp_path):
    def build(file=None):
        path = None if file is None else tmp_path / file
        return Run(reencoder=REENCODERS[name](), full_below=0.97, path=path, every=7)

    run = build("first")
    run.steps(stop)
    saved = run.state()
    losses = run.steps(16)
    resumed = build("second")
    resumed.load(saved)
    assert torch.equal(resumed.steps(16), losses)
    everything = torch.arange(N)
    assert torch.equal(embeddings(resumed.store, everything), embeddings(run.store, everything))
    assert torch.equal(resumed.store.table.stored, run.store.table.stored)
    for ours, theirs in zip(resumed.loss.parameters(), run.loss.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_resumed_while_items_are_missing_equals_one_that_never_stopped():
    run = Run()
    run.steps(5)
    run.store.remove(torch.arange(20))
    run.steps(2)
    run.store.add(torch.arange(20))
    resumed = Run()
    resumed.load(run.state())
    assert torch.equal(resumed.steps(4), run.steps(4))


def test_full_passes_come_by_themselves_when_embeddings_run_away():
    run = Run(full_below=0.9, reencoder=Identity(), every=10)
    run.steps(80)
    passes = (run.loss.report().encoded_nograd - N - 8 * 200) / N
    assert passes >= 1
    assert run.store.valid.all()


@pytest.mark.slow
def test_quality_falls_with_age_and_less_with_ridge():
    """Cosine with today's embeddings straight after each refresh, early in training."""
    found = {}
    for name, reencoder in (("stale", Identity()), ("ridge", Ridge())):
        run, cosines = Run(reencoder=reencoder), []
        for _ in range(4):
            run.steps(20)
            cosines.append(run.cosine())
            assert run.store.cosine == pytest.approx(cosines[-1], abs=0.05), "held out tells"
        found[name] = cosines
    stale, ridged = found["stale"], found["ridge"]
    assert all(older < newer - 0.01 for newer, older in pairwise(stale))
    assert all(ours > theirs + 0.005 for ours, theirs in zip(ridged, stale, strict=True))
    assert stale[-1] < 0.2  # 0.11 when first measured
    assert ridged[-1] > 0.6  # 0.73 when first measured


def test_items_may_go_and_a_corpus_may_grow_between_two_runs():
    run, gone = Run(items=400), torch.arange(10)
    run.steps(25)
    run.store.remove(gone)
    run.steps(20)
    assert not run.store.valid[gone].any()
    grown = Run(items=N)
    grown.load(run.state())
    grown.steps(1)
    assert grown.loss.report().encoded_nograd == N - 400
    assert grown.store.valid.sum() == N - 10
    new = embeddings(grown.store, torch.arange(400, N))
    fresh = grown.loss.score.embed(grown.loss.item_tower(ITEMS[torch.arange(400, N)]))
    assert torch.cosine_similarity(new, fresh).mean() > 0.9
    grown.store.add(gone)
    grown.steps(1)
    assert grown.store.valid.all()

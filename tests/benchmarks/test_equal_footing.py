"""Every contender trains a tiny task and encodes what it says; results are read as written."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pace import fast, slow
from torch import nn
from wordnet_slice import write_slice

from benchmarks import figures, record
from benchmarks.equal_footing.ranks import read, written
from benchmarks.equal_footing.regimes import REGIMES
from benchmarks.equal_footing.rounds import Place, compared
from benchmarks.equal_footing.table import page
from benchmarks.equal_footing.texts.floor import bm25
from benchmarks.equal_footing.texts.mining import MinedMnrl
from benchmarks.equal_footing.texts.pieces import InPieces
from benchmarks.equal_footing.verdict import places, verdict, word
from benchmarks.retrieval import static
from negcache.learning import COUNTED
from negcache.run.data import open_task

ITEMS, BATCH, STEPS = 300, 16, 30
PLACE = Place("static", "some-words", 0.05)
STATIC = REGIMES["static"]
EVERY_METHOD = fast(STATIC.methods, "auto", "mnrl", "cached_mnrl", "mined_mnrl", "public_code")


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    folder = write_slice(tmp_path_factory.mktemp("words") / "task", ITEMS)
    return static(open_task(str(folder)), dim=16, width=16)


def begun(problem, method, which=0, allowed=1e6):
    contender = STATIC.methods[method]
    return STATIC.runner(
        problem, contender, 1e-2, contender.settings[which], seed=0, batch=BATCH, allowed=allowed
    )


def trained(runner, steps=STEPS):
    while runner.steps < steps:
        runner.train_some()
    return runner


@pytest.mark.parametrize("method", EVERY_METHOD)
@pytest.mark.parametrize("which", [0, slow(1)])
def test_a_contender_learns_its_training_pairs(problem, method, which):
    runner = begun(problem, method, which)
    before = runner.measured("train", 100).means["mrr10"]
    assert trained(runner).measured("train", 100).means["mrr10"] > 3 * before


class Counted(nn.Module):
    """Rows that pass through a tower."""

    def __init__(self, tower):
        super().__init__()
        self.tower, self.rows = tower, 0

    def forward(self, texts):
        self.rows += len(texts.starts)
        return self.tower(texts)


class Read:
    """Rows that are read of a corpus."""

    def __init__(self, inner):
        self.inner, self.rows = inner, 0

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, ids):
        self.rows += len(ids)
        return self.inner[ids]


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_a_contender_encodes_what_it_says(problem, method):
    seen = replace(problem, queries=Read(problem.queries), tower=lambda: Counted(problem.tower()))
    runner = trained(begun(seen, method, which=1), steps=10)
    if method == "mined_mnrl":
        runner.objective.step(spent=1.0)
        trained(runner, steps=20)
    of_items = runner.tower.rows - seen.queries.rows
    assert runner.objective.encoded == of_items - (COUNTED if method == "auto" else 0) > 0


def test_larger_batches_in_pieces_have_the_gradient_of_the_whole(problem):
    pieces, whole = begun(problem, "cached_mnrl"), begun(problem, "mnrl")
    assert pieces.objective.batch == 4 * BATCH
    chosen = torch.arange(4 * BATCH)
    for runner in (pieces, whole):
        pairs = runner.pairs
        runner.objective(pairs.queries[chosen], pairs.items[chosen]).backward()
    for one, other in zip(pieces.tower.parameters(), whole.tower.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_pieces_have_the_rows_and_the_gradient_of_the_whole(problem):
    texts, tower = problem.items[torch.arange(50)], problem.tower()
    found = {}
    for most in (50, 20):
        tower.zero_grad()
        rows = InPieces(tower, most)(texts)
        rows.square().sum().backward()
        found[most] = [rows, *(p.grad.clone() for p in tower.parameters())]
    for one, other in zip(found[50], found[20], strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_mined_is_the_best_that_is_no_positive(problem):
    runner = begun(problem, "mined_mnrl")
    mined, task = runner.objective, problem.task
    assert isinstance(mined, MinedMnrl)
    mined.step(spent=0.24)
    assert mined.negatives is None
    mined.step(spent=0.25)
    rows = mined.pairs.queries
    assert len(mined.pairs) == len(runner.pairs)  # there was time for all
    with torch.no_grad():
        every = mined.items(torch.arange(ITEMS))
        scores = mined.queries(rows) @ every.T
    exclude = task.known_positives("train").exclusion(rows, mined.pairs.items)
    scores[exclude.rows, exclude.ids] = -torch.inf
    scores[torch.arange(len(rows)), mined.pairs.items] = -torch.inf
    best = scores.max(dim=1).values
    torch.testing.assert_close(scores[torch.arange(len(rows)), mined.negatives[rows]], best)


def test_without_time_some_are_mined_for_and_trained_on_alone(problem, monkeypatch):
    monkeypatch.setattr("benchmarks.equal_footing.texts.mining.QUERIES", 40)
    runner = begun(problem, "mined_mnrl", allowed=1e-9)
    runner.objective.step(spent=1.0)
    assert len(runner.objective.pairs) == 40
    runner.allowed = 1e6
    trained(runner, steps=10)
    assert torch.isin(runner.pairs.queries, runner.objective.pairs.queries).all()


def test_public_settings_know_no_positive_and_have_zeros_for_negatives(problem):
    ours = begun(problem, "public_code").objective
    assert bool(ours.cache.valid.all())
    assert not ours.cache.rows(torch.arange(ours.cache.num_rows)).any()
    assert ours.cache.log_weights is None
    assert not ours.beside


def test_a_method_that_encodes_all_is_left_out_where_that_is_too_much():
    assert REGIMES["transformer"].left_out("exact", 50_001)
    assert not REGIMES["transformer"].left_out("exact", 50_000)
    assert not STATIC.left_out("exact", 10**6)
    assert not REGIMES["transformer"].left_out("auto", 10**6)


def test_ranks_are_read_as_they_were_written():
    values = [1.0, 0.5, 0.0, 1 / 3, 0.1]
    assert written(values) == "ab.cj"
    assert np.allclose(read("ab.cj"), values)


@pytest.fixture
def results(tmp_path, monkeypatch, problem):
    """A folder of their own for results; one learning rate, and the tiny task."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    tiny = STATIC._replace(problem=lambda name: problem, rates=(1e-2,), batch=BATCH)
    monkeypatch.setitem(REGIMES, "static", tiny)
    figures.database.cache_clear()
    yield tmp_path / "equal_footing.csv"
    figures.database.cache_clear()


def test_parts_of_a_table_are_made_once_and_printed_as_they_are(results, tmp_path):
    compared(PLACE, ["uniform", "mnrl"])
    assert "best_peer" not in verdict(PLACE)  # auto is not there yet
    first = results.read_text()
    compared(PLACE, ["uniform", "auto", "mnrl"])
    assert results.read_text().startswith(first)
    kept = [(r["method"], r["part"]) for r in record.read_rows("equal_footing")]
    expected = {"trial": 2, "test": 3}
    for method in ("uniform", "mnrl", "auto"):
        assert {part: kept.count((method, part)) for part in expected} == expected
    assert kept.count(("bm25", "floor")) == 1

    assert places() == [PLACE]
    answer = verdict(PLACE)
    assert set(answer["methods"]) == {"uniform", "mnrl", "auto", "bm25"}
    assert answer["best_peer"] == "mnrl"
    assert answer["methods"]["mnrl"]["encoded_a_step"] == BATCH
    record.conclude("equal_footing", {word(PLACE): answer})
    made = tmp_path / "page.md"
    made.write_text(page())
    found = list(figures.passages(made))
    assert [wrong for passage in found if (wrong := figures.fault(passage))] == []
    assert [kind for p in found for kind, _ in p.comments] == ["no measurement", "figures:"]


def test_bm25_finds_words_that_are_there(problem):
    means = bm25(problem, 100).means
    assert 0 < means["mrr10"] <= means["r100"] <= 1

"""Every contender learns what comes next in the glosses of WordNet, and scores what it says."""

from collections import Counter

import numpy as np
import pytest
import torch
from pace import fast
from torch.nn.utils.rnn import pad_sequence

from benchmarks.equal_footing.regimes import REGIMES
from benchmarks.equal_footing.sequences.floor import popular
from benchmarks.equal_footing.sequences.problem import DIM, Asked, NextClass
from benchmarks.equal_footing.sequences.runner import ranked, some
from benchmarks.equal_footing.sequences.tasks import movielens
from negcache.exclusion import Exclusion
from negcache.run.data.wordnet import entries

KIND = REGIMES["sequences"]
TEXTS, LENGTH, BATCH, STEPS = 100, 6, 16, 40
OWN = [name for name in KIND.methods if not name.startswith("replay")]
REPLAYS = [name for name in KIND.methods if name.startswith("replay")]


def glosses(tied):
    """The first words of some definitions, numbered by falling count; all but the last are seen."""
    texts = [e.definition.split()[: LENGTH + 1] for e in entries()[1000 : 1000 + TEXTS]]
    words = [word for word, _ in Counter(word for text in texts for word in text).most_common()]
    number = {word: place for place, word in enumerate(words, start=1)}
    rows = pad_sequence(
        [torch.tensor([number[word] for word in text]) for text in texts], batch_first=True
    )
    ends = (rows > 0).sum(1) - 1
    there = ends > 0
    rows, ends = rows[there], ends[there]
    every, nothing = torch.arange(len(rows)), torch.empty(0, dtype=torch.int64)
    seen = rows.clone()
    seen[every, ends] = 0
    asked = Asked(
        seen[:, :-1], rows[every, ends], Exclusion.from_pairs(nothing, nothing, len(rows))
    )
    splits: dict[str, Asked] = dict.fromkeys(("train", "dev", "test"), asked)
    return NextClass(rows, 1 + len(words), splits, dropout=0.0, tied=tied)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "with a bias"])
def problem(request):
    return glosses(request.param)


def begun(problem, method, which=0):
    contender = KIND.methods[method]
    return KIND.runner(
        problem, contender, 1e-2, contender.settings[which], seed=0, batch=BATCH, allowed=1e6
    )


def learns(problem, method):
    runner = begun(problem, method, which=1)
    before = runner.measured("train", 100).means["mrr10"]
    while runner.steps < STEPS:
        runner.train_some()
    return runner.measured("train", 100).means["mrr10"] > max(1.3 * before, 0.05)


@pytest.mark.parametrize("method", fast(OWN, "default", "exact", "adaptive"))
def test_a_contender_learns_what_comes_next(problem, method):
    assert learns(problem, method)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what is not installed
@pytest.mark.parametrize("method", REPLAYS)
def test_losses_of_replay_learn_what_comes_next(problem, method):
    pytest.importorskip("replay.nn.loss", reason="its requirements are older than ours")
    assert learns(problem, method)


@pytest.mark.parametrize("method", ["default", "exact", "adaptive"])
def test_all_begin_with_the_same_scores_but_adaptive(method):
    problem = glosses(tied=False)
    runner = begun(problem, method)
    scores = runner.objective.scores(torch.zeros(1, DIM))[0]
    expected = ((problem.counts + 1) / problem.counts.sum()).log().softmax(0)
    same = torch.allclose(scores[1:].softmax(0), expected[1:] / expected[1:].sum(), atol=1e-5)
    assert same == (method != "adaptive")


def test_exact_is_the_cross_entropy_of_all_places_that_are_there(problem):
    runner = begun(problem, "exact")
    rows = problem.rows[:BATCH]
    hidden, wanted = runner.tower(rows[:, :-1]), rows[:, 1:]
    logits = runner.objective.scores(hidden[wanted > 0])
    expected = torch.nn.functional.cross_entropy(logits, wanted[wanted > 0])
    torch.testing.assert_close(runner.objective(rows), expected)
    assert runner.objective.encoded == problem.classes


def test_adaptive_scores_the_clusters_that_something_is_wanted_of(problem):
    runner = begun(problem, "adaptive")
    first, second = problem.classes // 20, problem.classes // 4
    rows = torch.ones(2, LENGTH + 1, dtype=torch.int64)
    runner.objective(rows)
    assert runner.objective.encoded == first
    rows[:, 1:] = second  # the first classes are scored all the same
    runner.objective(rows)
    assert runner.objective.encoded == first + first + problem.classes - second


def test_what_is_barred_is_not_found_nor_is_nothing():
    scores = torch.zeros(2, 5)
    scores[:, 0], scores[:, 2], scores[:, 3] = 9.0, 5.0, 4.0
    barred = Exclusion.from_pairs(torch.tensor([0]), torch.tensor([2]), 2)
    asked = Asked(torch.ones(2, 3, dtype=torch.int64), torch.tensor([3, 3]), barred)
    assert ranked(scores, asked).per_query["mrr10"] == {"0": 1.0, "1": 0.5}


def test_the_floor_is_the_rank_among_counts(problem):
    asked = some(problem.asked["test"], 50)
    ranks = [int((problem.counts > problem.counts[w]).sum()) + 1 for w in asked.wanted.tolist()]
    found = popular(problem, 50).means["r1"]
    assert found == pytest.approx(np.mean([rank == 1 for rank in ranks]), abs=0.1)


def test_each_step_has_the_same_sequences_for_all(problem):
    one, other = begun(problem, "default"), begun(problem, "exact")
    for _ in range(3):
        torch.testing.assert_close(one._next(), other._next())


@pytest.mark.slow
@pytest.mark.network
def test_films_are_numbered_by_falling_count_and_a_past_is_barred():
    problem = movielens()
    counts = problem.counts[1:]
    sequences = len(problem.rows)  # the first of each is not asked for, wherever it is
    assert int(counts.diff().clamp_min(0).sum()) < sequences
    assert int(counts[:100].min()) > int(counts[-100:].max())
    asked = problem.asked["test"]
    assert len(asked.wanted) == 943
    before = asked.barred.of(torch.tensor([0])).ids
    assert not bool(torch.isin(asked.wanted[:1], before))
    assert torch.isin(asked.seen[0][asked.seen[0] > 0], before).all()

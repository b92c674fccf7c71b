"""The compiled sum of block masses on a CPU against the torch path, and where it is not taken."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from interpreted_masses import CASES, made, table_of

from negcache.ops import cpu_masses, two_stage
from negcache.score import DotScore, Reshaped


@pytest.fixture
def for_few(monkeypatch):
    """However few queries and scores there are."""
    monkeypatch.setattr(cpu_masses, "FEWEST_QUERIES", 1)
    monkeypatch.setattr(cpu_masses, "FEWEST_SCORES", 1)


def by_torch(monkeypatch, rows):
    with monkeypatch.context() as patch:
        patch.setattr(cpu_masses, "has_numba", lambda: False)
        return made(rows)


@pytest.mark.parametrize("held", [1, 1 << 19])
@pytest.mark.parametrize("name", CASES)
def test_the_compiled_sum_is_its_twin(name, held, for_few, monkeypatch):
    """Masses to 1e-5 and a few roundings, and every item that equal noise draws."""
    monkeypatch.setattr(cpu_masses, "HELD", held)
    rows = CASES[name]()
    assert cpu_masses.cpu_masses(rows) is not None
    ours, theirs = made(rows), by_torch(monkeypatch, rows)
    torch.testing.assert_close(ours.masses, theirs.masses, atol=1e-5, rtol=4e-7)
    assert torch.equal(ours.slots, theirs.slots)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=4e-7)


def test_threads_change_nothing(for_few, monkeypatch):
    monkeypatch.setattr(cpu_masses, "HELD", 1)
    rows, own, found = table_of(queries=20), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(cpu_masses.cpu_masses(rows))
    finally:
        torch.set_num_threads(own)
    assert torch.equal(*found)


def test_a_score_that_is_no_number_is_not_hidden(for_few):
    rows = table_of()
    table = rows.rows(torch.arange(700)).clone()
    table[300] = torch.nan
    found = cpu_masses.cpu_masses(two_stage.ScoredRows.of(rows.queries, table, rows.score))
    assert found[:, 2].isnan().all()
    assert found[:, [0, 1, 3, 4, 5]].isfinite().all()


def test_it_is_taken_where_it_pays(monkeypatch):
    """Scores enough, queries enough to fill a register, numba: else torch does it."""
    many, asked = table_of(queries=20), []
    monkeypatch.setattr(cpu_masses, "FEWEST_SCORES", 20 * 700)
    assert cpu_masses.cpu_masses(many) is not None
    assert cpu_masses.cpu_masses(table_of(queries=20, rows=699)) is None
    assert cpu_masses.cpu_masses(table_of(queries=15, rows=7000)) is None
    assert cpu_masses.cpu_masses(many.under(DotScore(0.05, absolute=True))) is None
    assert cpu_masses.cpu_masses(many.under(Reshaped(many.score, torch.tanh))) is None
    assert cpu_masses.cpu_masses(replace(many, queries=many.queries.double())) is None
    monkeypatch.setattr(two_stage, "cpu_masses", asked.append)
    two_stage.scan(many)
    assert asked == [many], "stage one asks"
    monkeypatch.setattr(cpu_masses, "has_numba", lambda: False)
    assert cpu_masses.cpu_masses(many) is None


def test_what_is_compiled_need_not_be_kept():
    """A folder that cannot be written to, and no home: numba has nowhere to keep its code."""
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import torch\n"
        "from negcache.compiled.block_masses import masses_of_scores\n"
        "out = torch.empty(1, 16)\n"
        "masses_of_scores(torch.zeros(128, 16).numpy(), out.numpy())\n"
        "assert (out == 7).all()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

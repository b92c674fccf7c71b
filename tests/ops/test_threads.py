"""Pieces dealt out to threads: the same result for any number of them, and nothing left changed."""

import multiprocessing
import threading

import pytest
import torch

from negcache.exclusion import Exclusion
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.threads import dealt_out
from negcache.ops.two_stage import draw_rows, scan
from negcache.score import DotScore


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def rows_of(num_rows: int) -> ScoredRows:
    """Of a table, with one that may not stand for each query."""
    noise = torch.Generator().manual_seed(0)
    queries, table = (torch.randn(n, 8, generator=noise) for n in (24, num_rows))
    at = torch.arange(24)
    exclude = Exclusion.from_pairs(at, at * 37 % num_rows, 24)
    return ScoredRows.of(queries, table, DotScore(0.2), exclude)


@pytest.mark.parametrize("num_rows", [100 * BLOCK, 1000 * BLOCK + 5])
def test_draws_are_the_same_for_any_number_of_threads(num_rows, three_threads, monkeypatch):
    monkeypatch.setattr("negcache.ops.two_stage.CHUNK_SCORES", {"cpu": 24 * 64 * BLOCK})
    monkeypatch.setattr("negcache.ops.two_stage.GATHERED_AT_ONCE", {"cpu": 16})
    rows, noise = rows_of(num_rows), torch.rand(24, 4, 2, dtype=torch.float64)
    many = scan(rows)
    drawn = draw_rows(rows, many, noise)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    one = scan(rows)
    assert one.log_masses.isfinite().all()
    assert torch.equal(one.log_masses, many.log_masses)
    assert torch.equal(one.log_mass, many.log_mass)
    for found, wanted in zip(drawn, draw_rows(rows, one, noise), strict=True):
        assert torch.equal(found, wanted)


def test_a_thread_that_is_done_takes_the_next_piece(three_threads):
    """The first piece waits until all others are done, which another thread has to see to."""
    others_done, seen = threading.Event(), []

    def worker():
        assert torch.get_num_threads() == 1
        assert not torch.is_grad_enabled()

        def work(piece):
            if piece == 0:
                assert others_done.wait(20)
            seen.append(piece)
            if len(seen) == 9:
                others_done.set()
            return piece**2

        return work

    with torch.enable_grad():
        found = dealt_out(range(10), 2, worker)
    assert found == [n**2 for n in range(10)]
    assert seen == [*range(1, 10), 0]


def test_what_goes_wrong_in_a_thread_is_raised(three_threads):
    def worker():
        def work(piece):
            raise ValueError(f"piece {piece}")

        return work

    with pytest.raises(ValueError, match="piece"):
        dealt_out(range(10), 3, worker)
    assert torch.get_num_threads() == 3


def _in_a_fork(results):
    torch.set_num_threads(2)
    results.put(dealt_out(range(4), 2, lambda: lambda piece: piece + 1))


def test_a_fork_makes_threads_of_its_own(three_threads):
    """As a data loader's workers are made."""
    dealt_out(range(4), 2, lambda: lambda piece: piece)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    child = fork.Process(target=_in_a_fork, args=(results,))
    child.start()
    assert results.get(timeout=20) == [1, 2, 3, 4]
    child.join(20)
    assert child.exitcode == 0

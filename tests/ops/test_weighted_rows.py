"""The weight of a row counts as one more dimension would in which every query is 1."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import negcache as nc
from negcache.exclusion import Exclusion
from negcache.ops import two_stage
from negcache.ops.drawn_blocks import walks
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.views import BlockView

ROWS, QUERIES, DIM = 4000, 5, 3


@pytest.fixture
def pair(monkeypatch):
    """Rows with weights, and rows of one more dimension; in four chunks, the last block short."""
    monkeypatch.setitem(two_stage.CHUNK_SCORES, "cpu", QUERIES * 1024)
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    queries, table, weights = normal(QUERIES, DIM), normal(ROWS, DIM), normal(ROWS)
    score = nc.DotScore(1.0, normalize=False).double().requires_grad_(False)
    excluded = torch.tensor([0, 130, 1023, 1024, ROWS - 1])
    exclude = Exclusion.from_pairs(torch.arange(QUERIES), excluded, QUERIES)
    weighted = replace(ScoredRows.of(queries, table, score, exclude), log_weights=weights)
    queries = torch.cat([queries, torch.ones_like(queries[:, :1])], dim=1)
    table = torch.cat([table, weights[:, None]], dim=1)
    return weighted, ScoredRows.of(queries, table, score, exclude)


def all_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_in_masses_and_scores(pair):
    slots = torch.tensor([3999, 0, 130, 2500])
    torch.testing.assert_close(*(rows.logits(slots) for rows in pair))
    all_equal(*(two_stage.scan(rows, 9) for rows in pair))


@pytest.mark.parametrize("count", [6, 7])
def test_in_draws(pair, count):
    """From the rows of the drawn blocks, and on a walk over all rows."""
    assert walks(QUERIES * count, ROWS) == (count == 7)
    noise = torch.rand(QUERIES, count, 2, generator=torch.Generator().manual_seed(1)).double()
    all_equal(*(two_stage.draw_rows(rows, two_stage.scan(rows), noise) for rows in pair))


def test_in_what_is_left_when_rows_are_taken_away(pair):
    slots = torch.tensor([[3998], [1], [-1], [1025], [500]])
    left = [two_stage.take_away(rows, two_stage.scan(rows), slots)[1] for rows in pair]
    torch.testing.assert_close(left[0].log_masses, left[1].log_masses)


def test_in_a_view_of_some_blocks(pair):
    view = BlockView(ROWS, torch.tensor([1, 8, 9, 31]), 0.1)
    ours, theirs = (view.of(rows) for rows in pair)
    every = torch.arange(view.num_rows)
    torch.testing.assert_close(ours.logits(every), theirs.logits(every))
    torch.testing.assert_close(two_stage.scan(ours).log_masses, two_stage.scan(theirs).log_masses)

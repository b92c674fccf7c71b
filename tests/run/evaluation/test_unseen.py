"""Recommendations leave out what was seen: against a full sort of masked scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from negcache import DotScore, InputError
from negcache.exclusion import Exclusion
from negcache.run.data import Judgements
from negcache.run.evaluation import Side, evaluate
from negcache.run.evaluation.search import top_k_unseen_arriving

score = DotScore(1.0, normalize=False)


class Names:
    def ids(self, rows):
        return [str(row) for row in rows.tolist()]


@settings(deadline=None)
@given(seed=st.integers(0, 999), users=st.integers(1, 600), k=st.integers(1, 12))
def test_against_a_full_sort(seed, users, k):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-2, 3, (users, 2), generator=generator).float()  # many ties
    items = torch.randint(-2, 3, (12, 2), generator=generator).float()
    taken = torch.rand(users, 12, generator=generator) < 0.3
    table = Exclusion.from_pairs(*taken.nonzero(as_tuple=True), users)
    masked = (queries @ items.T).masked_fill(taken, -torch.inf)
    expected, order = masked.sort(dim=1, descending=True, stable=True)
    whole = [(torch.arange(12), items)]
    scores, ids = top_k_unseen_arriving(queries, whole, score, table, k, range(12))
    assert torch.equal(scores, expected[:, :k])
    real = scores.isfinite()
    assert torch.equal(ids[real], order[:, :k][real])
    some = range(5, 12)  # the share of a process, five at a time
    best = (queries @ items[5:].T).sort(dim=1, descending=True, stable=True).indices + 5
    behind = taken.gather(1, best).int().argsort(dim=1, stable=True)  # the best seen come first
    blocks = ((torch.arange(i, min(i + 5, 12)), items[i : i + 5]) for i in some[::5])
    few = min(k, len(some))
    scores, ids = top_k_unseen_arriving(queries, blocks, score, table, few, some)
    assert torch.equal(ids, best.gather(1, behind)[:, :few])
    assert torch.equal(scores, masked.gather(1, ids))


def test_a_seen_item_makes_room_for_the_next():
    tower = nn.Linear(2, 2, bias=False)
    nn.init.eye_(tower.weight)
    items = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    queries = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    sides = Side(tower, queries, Names()), Side(tower, items, Names())
    judged = Judgements(torch.tensor([1]), torch.tensor([1]), torch.tensor([1]))
    nothing = Exclusion.from_pairs(torch.tensor([0]), torch.tensor([1]), 2)
    assert evaluate(*sides, score, judged, seen=nothing).means["mrr10"] == 0.5
    best_was_seen = Exclusion.from_pairs(torch.tensor([1]), torch.tensor([0]), 2)
    result = evaluate(*sides, score, judged, seen=best_was_seen)
    assert result.means["mrr10"] == 1.0
    assert result.ranking.item_names == [["1", "2", "0"]]  # what was seen comes last
    with pytest.raises(InputError, match="a split with relevant items"):
        evaluate(*sides, score, judged.only(torch.tensor([False])), seen=nothing)

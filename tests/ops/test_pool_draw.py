"""A choice from a pool in one pass: the softmax over it, and how often each row is expected."""

import pytest
import torch

import negcache as nc
from negcache.exclusion import Exclusion
from negcache.ops import mass_table
from negcache.ops.pool_draw import draw_from_pool
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.two_stage import draw_rows, scan

F64 = torch.float64


@pytest.mark.parametrize("absolute", [False, True], ids=["product", "other"])
def test_draws_are_those_of_two_stages_and_chances_add_up(absolute, monkeypatch):
    monkeypatch.setattr(mass_table, "HELD", {"cpu": 900})
    monkeypatch.setattr(mass_table, "AT_LEAST", 1)
    noise = torch.Generator().manual_seed(0)
    queries, rows = (torch.randn(count, 5, generator=noise, dtype=F64) for count in (6, 300))
    weight = torch.randn(300, generator=noise, dtype=F64)
    weight[7] = -torch.inf
    masked = torch.rand(6, 300, generator=noise) < 0.1
    masked[4] = True
    exclude = Exclusion.from_pairs(*masked.nonzero().T, num_rows=6)
    score = nc.DotScore(0.5, absolute=absolute).double()
    uniforms = torch.rand(6, 40, 2, generator=noise, dtype=F64)
    found = draw_from_pool(queries, rows, weight, score, exclude, uniforms)
    assert found.alive.tolist() == [True, True, True, True, False, True]
    logits = (score(queries, rows).detach() + weight).masked_fill(masked, -torch.inf)
    chance = torch.softmax(logits, dim=1).nan_to_num(0.0)
    torch.testing.assert_close(found.expected, chance.sum(dim=0), atol=1e-12, rtol=0)
    scored = ScoredRows.of(queries, rows, score, exclude)
    scored = scored.__class__(**(vars(scored) | {"log_weights": weight}))
    two = draw_rows(scored, scan(scored, 40), uniforms)
    assert torch.equal(found.places[found.alive], two.slots[found.alive])
    assert (chance.gather(1, found.places)[found.alive] > 0).all()

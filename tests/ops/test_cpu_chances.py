"""Compiled chances of columns on a CPU against the table in torch, and where they are not taken."""

import numpy as np
import pytest
import torch

import negcache as nc
from negcache.exclusion import Exclusion
from negcache.ops import cpu_chances, mass_table
from negcache.ops.cluster_draw import ClusterLaw, Partition
from negcache.ops.cluster_expected import log_expected
from negcache.ops.cpu_chances import Chances, chances_of
from negcache.ops.mass_table import LogMasses, table_of, whole_blocks
from negcache.ops.pool_draw import draw_from_pool

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def in_parts(monkeypatch):
    """However few there are, and a few queries at a time."""
    monkeypatch.setattr(cpu_chances, "FEWEST", 1)
    monkeypatch.setattr(mass_table, "HELD", {"cpu": 900})
    monkeypatch.setattr(mass_table, "AT_LEAST", 1)


def by_torch(monkeypatch, work):
    with monkeypatch.context() as patch:
        patch.setattr(cpu_chances, "has_numba", lambda: False)
        return work()


def some_masses(width):
    """Of 7 queries; of two the first block has no mass, the last has none at all."""
    noise = torch.Generator().manual_seed(width)
    logits, bias = (9 * torch.randn(rows, width, generator=noise) for rows in (7, 1))
    bias[0, 5::6] = -torch.inf
    instead = torch.rand(7, width, generator=noise) < 0.1
    instead[3:5, :128] = instead[6] = True
    rows, columns = instead.nonzero().T
    of = torch.randn(len(rows), generator=noise)
    of[(rows == 6) | ((columns < 128) & ((rows == 3) | (rows == 4)))] = -torch.inf
    offsets = Exclusion.from_pairs(rows, columns, 7).offsets
    return LogMasses(logits, bias, offsets, columns, of), instead


def uniforms_of(columns):
    """From 0 on."""
    noise = torch.rand(7, 60, columns, generator=torch.Generator().manual_seed(0)).double()
    noise[:, 0], noise[:, 1, 0] = 0.0, 0.0
    return noise


@pytest.mark.parametrize("columns", [1, 2], ids=["what is left", "two uniforms"])
@pytest.mark.parametrize("width", [200, 256, 700])
def test_the_compiled_pass_is_its_twin(width, columns, in_parts):
    """Masses, what is expected but for the pairs, and every column that equal noise draws."""
    of, instead = some_masses(width)
    table = table_of(of, torch.empty(7, whole_blocks(width)))
    ours, alive = chances_of(of), table.total > 0
    assert ours.alive.tolist() == alive.tolist() == [True] * 6 + [False]
    torch.testing.assert_close(ours.log_total, table.log_total, **CLOSE)
    drawn = ours.draw(uniforms_of(columns))
    assert torch.equal(drawn[alive], table.draw(uniforms_of(columns))[alive])
    for each in (drawn, ours.draw(torch.full((7, 1, columns), 1 - 2.0**-53).double())):
        assert (table.masses.gather(1, each)[alive] > 0).all(), "what has no mass is never drawn"
        assert (each < width).all()
    table.masses[:, :width][instead] = 0.0
    expected = table.expected(torch.ones(7).double())[:width]
    torch.testing.assert_close(ours.expected, expected, **CLOSE)


def test_a_logit_that_is_no_number_is_not_hidden(in_parts):
    of, _ = some_masses(300)
    of.logits[2, 10] = torch.nan
    found = chances_of(of._replace(columns=of.columns[:0], offsets=torch.zeros(8).long()))
    assert found.log_total[2].isnan()
    assert found.log_total[[0, 1, 3, 4, 5]].isfinite().all()
    assert found.expected.isnan().any()


@pytest.mark.parametrize("absolute", [False, True], ids=["product", "other"])
def test_a_pool_is_drawn_from_alike_on_any_number_of_threads(absolute, in_parts, monkeypatch):
    noise = torch.Generator().manual_seed(0)
    queries, rows = (torch.randn(count, 5, generator=noise) for count in (20, 300))
    weight = torch.randn(300, generator=noise)
    weight[7] = -torch.inf
    masked = torch.rand(20, 300, generator=noise) < 0.1
    masked[4] = True
    exclude = Exclusion.from_pairs(*masked.nonzero().T, num_rows=20)
    uniforms = torch.rand(20, 40, 2, generator=noise, dtype=torch.float64)
    score = nc.DotScore(0.5, absolute=absolute)

    def drawn():
        return draw_from_pool(queries, rows, weight, score, exclude, uniforms)

    own, found, theirs = torch.get_num_threads(), [], by_torch(monkeypatch, drawn)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(drawn())
    finally:
        torch.set_num_threads(own)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found[0].alive, theirs.alive)
    assert torch.equal(found[0].places[theirs.alive], theirs.places[theirs.alive])
    assert not torch.equal(found[0].expected, theirs.expected), "it is the compiled code"
    torch.testing.assert_close(found[0].expected, theirs.expected, **CLOSE)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_cluster_law_is_the_same_by_compiled_code(share, in_parts, monkeypatch):
    """Masses, draws of clusters and of members, and what is expected; also with nothing left."""
    noise = torch.Generator().manual_seed(round(10 * share))
    size = torch.randint(0, 4, (200,), generator=noise)
    fields = (size.cumsum(0) - size, size, torch.zeros(200))
    values = 3 * torch.randn(7, 200, generator=noise)
    masked = torch.rand(7, int(size.sum()), generator=noise) < share
    masked[3] = masked[4] = True
    masked[4, 100] = False
    exclude = Exclusion.from_pairs(*masked.nonzero().T, num_rows=7)
    uniforms = torch.rand(7, 50, 2, generator=noise, dtype=torch.float64)
    places = torch.randperm(int(size.sum()), generator=noise)

    def of_law():
        law = ClusterLaw(Partition(values, *(field.expand(7, -1) for field in fields)), exclude)
        return law, law.draw(uniforms), log_expected(law, places)

    (law, drawn, expected), (twin, of_twin, of_sum) = of_law(), by_torch(monkeypatch, of_law)
    assert isinstance(law.chances, Chances)
    assert not isinstance(twin.chances, Chances)
    some = ~twin.empty
    assert torch.equal(law.empty, twin.empty)
    assert torch.equal(drawn.clusters[some], of_twin.clusters[some])
    assert torch.equal(drawn.places[some], of_twin.places[some])
    torch.testing.assert_close(law.log_norm, twin.log_norm, **CLOSE)
    torch.testing.assert_close(expected, of_sum, **CLOSE)
    shares = torch.rand(7, generator=noise).log()
    by_share = [log_expected(each, places, shares) for each in (law, twin)]
    torch.testing.assert_close(*by_share, **CLOSE)


def test_members_are_those_of_the_twin_where_nobody_is_left(in_parts):
    """Also of clusters that would never be drawn."""
    size = torch.tensor([2, 0, 3, 1])
    fields = (size.cumsum(0) - size, size, torch.zeros(4))
    gone = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    exclude = Exclusion.from_pairs(*gone.nonzero().T, num_rows=3)
    law = ClusterLaw(Partition(torch.zeros(3, 4), *(f.expand(3, -1) for f in fields)), exclude)
    clusters = torch.arange(4).repeat(3, 5)
    uniforms = torch.rand(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = law._members_by_compiled_code(clusters, uniforms)
    assert torch.equal(ours, law._members(clusters, uniforms))


def test_it_is_taken_where_it_pays(monkeypatch):
    """Log-masses enough, float32, a CPU, numba: else torch does it."""
    like = torch.empty(2, 3)
    assert cpu_chances.takes(like, cpu_chances.FEWEST)
    assert not cpu_chances.takes(like, cpu_chances.FEWEST - 1)
    assert not cpu_chances.takes(like.double(), cpu_chances.FEWEST)
    assert not cpu_chances.takes(like.to("meta"), cpu_chances.FEWEST)
    monkeypatch.setattr(cpu_chances, "has_numba", lambda: False)
    assert not cpu_chances.takes(like, cpu_chances.FEWEST)


def test_numbers_of_the_compiled_code_are_those_of_torch():
    from negcache.compiled import chances
    from negcache.ops.cumulative import LOG2_E
    from negcache.ops.drawn_blocks import BLOCK

    assert chances.BLOCK == BLOCK
    assert np.float32(LOG2_E) == chances.LOG2_E

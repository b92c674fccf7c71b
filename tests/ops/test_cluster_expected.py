"""How often items are expected of all queries' cluster laws, against a sum over the queries."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.test_cluster_exclusion import partition_of

from negcache.exclusion import Exclusion
from negcache.ops import mass_table
from negcache.ops.cluster_draw import ClusterLaw, Partition
from negcache.ops.cluster_expected import log_expected

F64 = torch.float64


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.2, 0.7, 1.0]), st.sampled_from([1, 400]))
def test_sums_by_cluster_are_sums_over_the_queries(seed, share, spread):
    """Also where one excluded pair is nearly all that the others add up to."""
    noise = torch.Generator().manual_seed(seed)
    partition = partition_of(noise, True, 4, 9, spread)
    masked = torch.rand(4, 9, generator=noise) < share
    law = ClusterLaw(partition, Exclusion.from_pairs(*masked.nonzero().T, num_rows=4))
    places = torch.cat([torch.randperm(9, generator=noise)[:6], torch.tensor([-1, -1])])
    log_share = torch.rand(4, generator=noise, dtype=F64).log()
    for given_share in (None, log_share):
        chance = law.log_chance(places) + (0 if given_share is None else given_share[:, None])
        truth, found = torch.logsumexp(chance, dim=0), log_expected(law, places, given_share)
        assert (truth[found == -torch.inf] < -700).all(), "what no float64 holds may be nothing"
        seen = truth > -700
        torch.testing.assert_close(found[seen], truth[seen], atol=1e-8, rtol=0)


def test_a_pair_that_dominates_does_not_drown_the_others():
    """Query 0 may not draw item 0, of a cluster that it nearly always draws; query 1 seldom does:
    1e-13 of the sum, less than float64 keeps of a difference."""
    fields = (torch.tensor([0, 2]), torch.tensor([2, 2]), torch.zeros(2, dtype=F64))
    values = torch.tensor([[30.0, 0.0], [0.0, 30.0]], dtype=F64)
    partition = Partition(values, *(field.expand(2, -1) for field in fields))
    none = torch.zeros(1, dtype=torch.long)
    law = ClusterLaw(partition, Exclusion.from_pairs(none, none, 2))
    ours = log_expected(law, torch.tensor([0, 1]))
    truth = torch.logsumexp(law.log_chance(torch.tensor([0, 1])), dim=0)
    torch.testing.assert_close(ours, truth, atol=1e-12, rtol=0)
    both = ClusterLaw(partition, Exclusion.from_pairs(torch.arange(2), torch.zeros(2).long(), 2))
    assert log_expected(both, torch.tensor([0]))[0] == -torch.inf


def test_float32_values_keep_the_law_to_their_own_precision(monkeypatch):
    """In several parts, in rows that are no whole blocks; the masses of a table come back."""
    monkeypatch.setattr(mass_table, "HELD", {"cpu": 600})
    monkeypatch.setattr(mass_table, "AT_LEAST", 1)
    noise = torch.Generator().manual_seed(0)
    size = torch.randint(0, 5, (300,), generator=noise)
    fields = (size.cumsum(0) - size, size, torch.zeros(300))
    values = 5 * torch.randn(7, 300, generator=noise)
    pairs = torch.randint(7, (60,), generator=noise), torch.randint(9, (60,), generator=noise)
    exclude = Exclusion.from_pairs(*pairs, num_rows=7)
    laws = [
        ClusterLaw(Partition(each, *(f.expand(7, -1) for f in fields)), exclude)
        for each in (values, values.double())
    ]
    places, draws = torch.arange(int(size.sum())), torch.rand(7, 50, 2, dtype=F64)
    single, double = (law.draw(draws) for law in laws)
    assert torch.equal(single.places, double.places)
    assert laws[0].table.masses.dtype == torch.float32
    before = laws[0].table.masses.clone()
    torch.testing.assert_close(*(log_expected(law, places) for law in laws), atol=1e-5, rtol=0)
    assert torch.equal(laws[0].table.masses, before)
    torch.testing.assert_close(laws[0].log_norm, laws[1].log_norm, atol=1e-5, rtol=0)

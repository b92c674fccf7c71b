"""Every law, over every sampler, on fresh and on stale caches."""

import pytest
from roster import ROSTER, problem

from negcache.conformance import check_sampler


@pytest.mark.parametrize("drift", [0.0, 0.3])
@pytest.mark.parametrize("case", ROSTER, ids=lambda case: case.name)
def test_laws(case, drift):
    request, items, cache = problem(drift)
    for seed in (0, 1, 2):
        check_sampler(case.build(cache), request, items, unbiased=case.unbiased, seed=seed)


def test_roster_holds_every_sampler():
    import negcache.samplers

    _, _, cache = problem()
    listed = {type(case.build(cache)).__name__ for case in ROSTER}
    assert listed == set(negcache.samplers.__all__)

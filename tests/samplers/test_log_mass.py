"""The mass of a proposal adds up: what choosing a part of the rows by their mass rests on."""

from dataclasses import replace

import pytest
import torch
from dynamic import clusters
from roster import ROWS, SETTINGS, problem, uniform

import negcache as nc
from negcache.draws import propose

SAMPLERS = {
    "uniform": lambda store: uniform(store, 6),
    "cached": lambda store: nc.CachedSoftmax(store, 6),
    "scored": lambda store: nc.CachedSoftmax(store, 6, scored=0.67),
    "flat": lambda store: nc.CachedSoftmax(store, 6, power=0.5),
    "quadratic": lambda store: nc.quadratic(store, 6, alpha=3.0),
    "index": lambda store: nc.DynamicIndex(store, 6, index=clusters()),
    "two_levels": lambda store: nc.DynamicIndex(store, 6, index=clusters(60), expand=3),
}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("setting", ["drifted", "half", "gaps", "half_gaps", "large", "excluded"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_leaving_items_out_takes_their_mass_and_no_more(name, setting, share):
    """``q_whole(y) = q_without(y) exp(log_mass_without - log_mass_whole)`` for y that stay."""
    request, items, store = problem(**SETTINGS[setting])
    sampler, everything = SAMPLERS[name](store), torch.arange(len(items))
    out = torch.rand(len(items), generator=torch.Generator().manual_seed(1)) < share
    rows, ids = out.expand(ROWS, -1).nonzero(as_tuple=True)
    fewer = replace(request, exclude=request.exclude.and_also(rows, ids))
    whole, without = (
        propose(sampler, each, torch.Generator().manual_seed(0)) for each in (request, fewer)
    )
    before, after = whole.log_prob(everything), without.log_prob(everything)
    assert (after[:, out] == -torch.inf).all()
    ratio = without.proposal.log_mass - whole.proposal.log_mass
    able = without.proposal.log_mass > -torch.inf
    assert able.any()
    found = (after + ratio[:, None])[:, ~out]
    torch.testing.assert_close(before[:, ~out][able], found[able], atol=1e-9, rtol=0)
    left = before[:, ~out].exp().sum(dim=1)[able]
    torch.testing.assert_close(ratio[able].exp(), left, atol=1e-9, rtol=0)

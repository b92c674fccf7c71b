"""Every law, over every sampler, on fresh and on stale caches."""

import importlib
import inspect
import pkgutil

import pytest
from roster import ROSTER, problem

import negcache.samplers
from negcache.conformance import check_sampler


@pytest.mark.parametrize("drift", [0.0, 0.3])
@pytest.mark.parametrize("case", ROSTER, ids=lambda case: case.name)
def test_laws(case, drift):
    request, items, cache = problem(drift)
    for seed in (0, 1, 2):
        check_sampler(case.build(cache), request, items, unbiased=case.unbiased, seed=seed)


def test_roster_holds_every_sampler():
    """A new file in samplers/ without a row here is a failure."""
    _, _, cache = problem()
    listed = {type(case.build(cache)) for case in ROSTER}
    modules = [
        importlib.import_module(f"negcache.samplers.{found.name}")
        for found in pkgutil.iter_modules(negcache.samplers.__path__)
    ]
    written = {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and hasattr(kind, "draw")
    }
    assert listed == written

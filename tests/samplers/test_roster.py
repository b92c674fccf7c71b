"""Every law, over every sampler, in every setting that it takes."""

import importlib
import inspect
import pkgutil
from itertools import product

import pytest
from partition import assert_unbiased, log_z_of_rows
from roster import NUM_ITEMS, ROSTER, SETTINGS, problem

import negcache as nc
import negcache.samplers
from negcache.conformance import check_sampler
from negcache.functional.two_stage import scores_all

ROUNDS = {
    "fresh": 200,
    "drifted": 200,
    "half": 100,
    "gaps": 100,
    "half_gaps": 50,
    "large": 50,
    "barred": 50,
}
"""Repeats of the statistical laws."""

IN_PARTS = ("half", "gaps", "half_gaps")
"""Settings in which some items have no row, or none that was written."""

UNIFORM_REACHES = "the law of a sampler's cache is asked of a mixture that draws uniformly as well"
FAULTS = {("mixture", setting): UNIFORM_REACHES for setting in ("gaps", "half_gaps")}
"""(case, setting) -> the law that it is known to break."""


def runs(taken):
    """Each case in each setting that it takes, or refuses; two with more seeds among the slow."""
    for case, setting in product(ROSTER, ROUNDS):
        if (setting not in case.refuses) != taken:
            continue
        reason = FAULTS.get((case.name, setting))
        marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
        yield pytest.param(case, setting, 0, id=f"{case.name}-{setting}", marks=marks)
        for seed in (1, 2) if setting in ("fresh", "drifted") else ():
            name = f"{case.name}-{setting}-{seed}"
            yield pytest.param(case, setting, seed, id=name, marks=pytest.mark.slow)


@pytest.mark.parametrize(("case", "setting", "seed"), list(runs(taken=True)))
def test_laws(case, setting, seed):
    request, items, cache = problem(**SETTINGS[setting])
    sampler, rounds = case.build(cache), ROUNDS[setting]
    in_parts = case.by_rows and setting in IN_PARTS
    whole = case.unbiased and not in_parts
    check_sampler(sampler, request, items, unbiased=whole, seed=seed, rounds=rounds)
    if case.unbiased and in_parts:
        assert_unbiased(sampler, request, items, log_z_of_rows(request, items, cache), rounds)


@pytest.mark.parametrize(("case", "setting", "seed"), list(runs(taken=False)))
def test_refusals(case, setting, seed):
    _, _, cache = problem(**SETTINGS[setting])
    with pytest.raises(nc.InputError):
        case.build(cache)


def test_stage_two_goes_both_ways():
    """The widest two-stage draw of the roster has 6 columns, the narrowest shares one at a time."""
    assert scores_all(1, NUM_ITEMS), "few rows: all are scored"
    assert not scores_all(6, SETTINGS["large"]["num_items"]), "many: cells are gathered"


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

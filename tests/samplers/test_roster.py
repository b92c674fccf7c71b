"""Every law, over every sampler, in every setting that it takes."""

import importlib
import inspect
import pkgutil
from itertools import product

import pytest
import torch
from pace import slow
from partition import (
    assert_mean,
    assert_rows_are_there,
    assert_unbiased,
    log_z_of_rows,
    table_of,
)
from roster import NUM_ITEMS, ROSTER, SETTINGS, problem

import negcache as nc
import negcache.contrib
import negcache.samplers
from negcache.draws import draw as draw_from
from negcache.ops.two_stage import scores_all
from negcache.testing.conformance import check_sampler

ROUNDS = {name: 200 if name in ("fresh", "drifted") else 50 for name in SETTINGS}
del ROUNDS["single"]  # laws are float64
"""Repeats of the statistical laws."""

FAST = ("drifted", "half_gaps", "excluded")
"""Settings of the fast tests; each of the others is one of these with less in it."""

COMBINED = {
    "flat",
    "log_uniform",
    "shared_dynamic_index",
    "shared_mixture",
    "shared_popularity",
    "shared_quadratic",
}
"""Cases whose parts are fast ones, each by itself and in another combination: these are slow."""

IN_PARTS = ("half", "gaps", "half_gaps", "large_gaps")
"""Settings in which some items have no row, or none that was written."""

OF_ROWS = (
    "cached",
    "scored",
    "distinct",
    "head_tail",
    "chain",
    "index_rejection",
    "index_tree",
)
TWO_FORMS = [case for case in ROSTER if case.name in OF_ROWS]
"""Cases whose draws bring a log_z of the rows; that of ``grouped_top_k`` leaves most out."""
SLOW_TREE = [slow(case) if case.name == "index_tree" else case for case in TWO_FORMS]
"""A tree of Python objects is drawn from, object by object."""


def runs(taken):
    """Each case in each setting that it takes, or refuses; other settings and seeds are slow."""
    for case, setting in product(ROSTER, ROUNDS):
        if (setting not in case.refuses) != taken:
            continue
        is_fast = not taken or (setting in FAST and case.name not in COMBINED)
        marks = () if is_fast else pytest.mark.slow
        yield pytest.param(case, setting, 0, id=f"{case.name}-{setting}", marks=marks)
        for seed in (1, 2) if setting in ("fresh", "drifted") else ():
            name = f"{case.name}-{setting}-{seed}"
            yield pytest.param(case, setting, seed, id=name, marks=pytest.mark.slow)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("case", "setting", "seed"), list(runs(taken=True)))
def test_laws(case, setting, seed):
    request, items, store = problem(**SETTINGS[setting])
    sampler, rounds = case.build(store), ROUNDS[setting]
    in_parts = case.by_rows and setting in IN_PARTS
    whole = case.unbiased and not in_parts
    check_sampler(sampler, request, items, unbiased=whole, seed=seed, rounds=rounds)
    if case.unbiased and in_parts:
        assert_rows_are_there(sampler, request, store)
        assert_unbiased(sampler, request, items, log_z_of_rows(request, items, store), rounds)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("setting", [slow("half"), "large_gaps"])
@pytest.mark.parametrize("case", SLOW_TREE, ids=lambda case: case.name)
def test_both_forms_of_a_draw_agree(case, setting):
    """Where there is a log_z: ``w = log_z + log_share - s~``, and its mean is Z~ of the rows."""
    request, items, store = problem(**SETTINGS[setting])
    sampler, stale = case.build(store), table_of(store, items)
    generator = torch.Generator().manual_seed(3)
    draws = [draw_from(sampler, request, generator) for _ in range(20)]
    for draw in draws:
        alive = draw.log_weight > -torch.inf
        scores = request.score(request.queries, stale[draw.ids]).gather(1, draw.columns)
        both = draw.log_z[:, None] + draw.log_share - scores
        torch.testing.assert_close(draw.log_weight[alive], both[alive], atol=1e-9, rtol=0)
        whole = torch.logsumexp(draw.log_share, dim=1)
        torch.testing.assert_close(whole, torch.zeros_like(whole), atol=1e-9, rtol=0)
    said = torch.stack([draw.log_z for draw in draws])
    assert_mean(said, log_z_of_rows(request, stale, store))


@pytest.mark.parametrize("case", ROSTER, ids=lambda case: case.name)
def test_draws_have_the_forms_that_are_listed(case):
    request, _, store = problem()
    draw = draw_from(case.build(store), request, torch.Generator().manual_seed(0))
    two = case.name in (*OF_ROWS, "grouped_top_k")
    assert (draw.log_z is not None) == (draw.log_share is not None) == two


@pytest.mark.parametrize(("case", "setting", "seed"), list(runs(taken=False)))
def test_refusals(case, setting, seed):
    _, _, store = problem(**SETTINGS[setting])
    with pytest.raises(nc.InputError):
        case.build(store)


def test_stage_two_goes_both_ways():
    """The widest two-stage draw of the roster has 6 columns, the narrowest shares one at a time."""
    assert scores_all(1, NUM_ITEMS), "few rows: all are scored"
    assert not scores_all(6, SETTINGS["large"]["num_items"]), "many: clusters are gathered"


def test_roster_holds_every_sampler():
    """A new file in samplers/ or contrib/ without a row here is a failure."""
    _, _, store = problem()
    listed = {type(case.build(store)) for case in ROSTER}
    modules = [
        importlib.import_module(f"{room.__name__}.{found.name}")
        for room in (negcache.samplers, negcache.contrib)
        for found in pkgutil.iter_modules(room.__path__)
    ]
    written = {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and kind.__module__ == module.__name__
        and hasattr(kind, "has_density")
    }
    assert listed == written

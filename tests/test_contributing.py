"""CONTRIBUTING alone is enough to write a sampler outside the repository, and to train with it."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from roster import NUM_ITEMS, problem
from test_readme import EXPLAINED, SNIPPET, loss_in, run

import negcache as nc
from negcache.testing import check_sampler

ROOT = Path(__file__).parent.parent
SAMPLER = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]


def favourites(folder):
    """The class, from a file of its own."""
    file = folder / "favourites.py"
    file.write_text(SAMPLER)
    spec = importlib.util.spec_from_file_location("favourites", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Favourites


def test_it_is_short():
    assert len(SAMPLER.splitlines()) <= 40


@pytest.mark.usefixtures("unchecked")
def test_it_obeys_every_law(tmp_path):
    request, items, _ = problem(drift=0.3)
    sampler = favourites(tmp_path)(NUM_ITEMS, torch.arange(0, NUM_ITEMS, 7), 6)
    for wrapped in (sampler, nc.SharedDraws(sampler), nc.Mixture(sampler, nc.Uniform(items, 2))):
        check_sampler(wrapped, request, items)


@pytest.mark.slow
def test_it_trains_in_the_snippet_of_the_readme(tmp_path):
    favourites(tmp_path)
    new = "nc.SharedDraws(Favourites(len(task.corpus), torch.arange(1000), 1))"
    assert '"auto"' in SNIPPET
    changed = SNIPPET.replace('"auto"', new, 1).replace(EXPLAINED, "")
    done = run("from favourites import Favourites\n" + changed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert loss_in(done.stdout) < 10

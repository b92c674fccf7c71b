"""Every word of ``sampler.name`` trains, resumes its draws from the config, and is planned for."""

import re
from pathlib import Path

import pytest
import torch

from negcache.errors import InputError
from negcache.run.cli import runs
from negcache.run.cli.planning.facts import facts_of
from negcache.run.cli.planning.planned_run import planned_run
from negcache.run.cli.planning.samplers import SAMPLER_COSTS
from negcache.run.cli.planning.work import work_of
from negcache.run.cli.sampler_words import CLASSES
from negcache.run.cli.sampling import SAMPLERS, WITH_PARTITION
from negcache.run.training import load_config

ROOT = Path(__file__).parents[3]

KEYS = {
    "mixture": ["sampler.uniform=2", "sampler.scored=0.5"],
    "head_tail": ["sampler.head=2"],
    "cached": ["sampler.power=0.5"],
}


@pytest.mark.parametrize("word", SAMPLERS)
def test_a_word_trains_and_encodes_no_more_than_planned(small, tmp_path, word):
    config = load_config(
        small / "small.toml", [f"sampler.name={word}", "steps=2", *KEYS.get(word, [])]
    )
    run = runs.start(config, tmp_path / "run")
    planned = work_of(planned_run(run.config, facts_of(run.retriever.task), torch.device("cpu")))
    assert run.trainer.run() is None
    loss = run.trainer.parts.loss_fn
    batch = run.trainer.parts.data.batch(torch.arange(config.batch_size))
    loss(run.trainer.parts.query_tower(batch.queries), batch.positives, batch.query_ids)
    slack = 1 if word == "cached_rest" else 0  # a systematic sample may hold one more
    assert 0 < loss.report().encoded_grad <= planned.items_grad + slack


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("cached_softmax", "cached"), ("CachedDistinct", "distinct"), ("in-batch", "in_batch"),
     ("InBatch", "in_batch"), ("full_softmax", "full"), ("unifrom", "uniform"),
     ("cached_rst", "cached_rest"), ("RFSoftmax", "rf_softmax"), ("Head-Tail", "head_tail")],
)  # fmt: skip
def test_an_unknown_word_is_answered_with_the_nearest(refused, small, word, nearest):
    told = refused("train", small / "small.toml", "--set", f"sampler.name={word}")
    assert f"use '{nearest}', the nearest" in told


def test_the_readmes_table_has_the_word_of_each_class():
    """In the column beside it; every word has a row, and none is made up."""
    table = (ROOT / "README.md").read_text().split("| sampler | `sampler.name` |")[1]
    rows = [line.split(" | ")[:2] for line in table.split("\n\n")[0].splitlines()[2:]]
    named = {}
    for sampler, told in rows:
        for word in re.findall(r"`(\w+)`", told):
            named.setdefault(word, []).append(sampler)
    assert named.keys() == set(SAMPLERS) == set(CLASSES)
    for word, samplers in named.items():
        assert all(f"{CLASSES[word]}(" in each for each in samplers), word


def test_every_word_has_a_cost():
    assert set(SAMPLER_COSTS) == set(SAMPLERS)


@pytest.mark.parametrize("word", WITH_PARTITION)
def test_cached_partition_needs_draws_of_each_querys_own(small, tmp_path, word):
    words = [f"sampler.name={word}", "sampler.estimator=cached_partition", "steps=1"]
    if word == "cached":  # the others have no shared form
        with pytest.raises(InputError, match="cached_partition"):
            runs.start(load_config(small / "small.toml", words), tmp_path / "shared")
    own = [*words, "sampler.shared=false"]
    assert (
        runs.start(load_config(small / "small.toml", own), tmp_path / "run").trainer.run() is None
    )


@pytest.mark.parametrize(
    "words",
    [
        ["sampler.name=distinct", "sampler.power=0.5"],
        ["sampler.name=uniform", "sampler.scored=0.5"],
        ["sampler.name=cached", "sampler.uniform=3"],
        ["sampler.name=cached", "sampler.head=3"],
    ],
)
def test_keys_that_would_do_nothing_are_refused(small, tmp_path, words):
    with pytest.raises(InputError, match="is for"):
        runs.start(load_config(small / "small.toml", words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["score.normalize=false"], ["score.temperature=0.5"]])
def test_rf_softmax_needs_unit_rows_and_a_sharp_score(small, tmp_path, words):
    words = ["sampler.name=rf_softmax", *words]
    with pytest.raises(InputError, match="rf_softmax"):
        runs.start(load_config(small / "small.toml", words), tmp_path / "run")

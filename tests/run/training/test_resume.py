"""A run that was stopped and resumed is, bit for bit, the run that never stopped."""

import signal
from dataclasses import replace

import pytest
import torch
from pace import fast

from benchmarks.soak import result
from negcache import InputError
from negcache.packing import pack, unpack
from negcache.run.cli.runs import reopen

VARIANTS = {
    "cached": {"sampler": {"name": "cached", "num_negatives": 2}},
    "cached_per_query": {"sampler": {"name": "cached", "num_negatives": 3, "shared": False}},
    "uniform": {"sampler": {"name": "uniform"}, "optimizer": {"name": "sgd", "lr": 0.1}},
    "in_batch": {"sampler": {"name": "in_batch"}, "optimizer": {"name": "adamw"}},
    "full": {"sampler": {"name": "full"}, "tower": {"dim": 8, "width": 12, "shared": False}},
    "half": {"mixed_precision": "bf16", "cache": {"dtype": "bfloat16", "refresh": 0.05}},
    "int8": {"cache": {"dtype": "int8", "refresh": 0.05}},
    "accumulated": {"accumulation": 2, "score": {"learn_temperature": True}},
}


def stop_at(run, step, number=signal.SIGTERM):
    """Have the run's own dev evaluation send the signal, in the middle of everything."""
    inner = run.trainer.parts.evaluate

    def evaluate():
        if run.trainer.step == step:
            signal.raise_signal(number)
        return inner()

    run.trainer.parts = replace(run.trainer.parts, evaluate=evaluate)
    return run


@pytest.mark.parametrize("variant", fast(VARIANTS, "accumulated", "in_batch", "half"))
def test_resumed_equals_never_stopped(start, variant):
    whole = start("whole", **VARIANTS[variant])
    assert whole.trainer.run() is None

    part = stop_at(start("part", **VARIANTS[variant]), 8)
    assert part.trainer.run() == signal.SIGTERM
    assert part.trainer.step == 8
    again = reopen(part.folder)
    assert again.trainer.step == 8
    assert again.trainer.run() is None

    before, after = (pack(run.trainer.parts.state_dict())[1] for run in (whole, again))
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name])
    assert result(whole.folder) == result(again.folder)


def test_ctrl_c_between_checkpoints_leaves_one(start):
    run = stop_at(start(checkpoint_every=0), 8, signal.SIGINT)
    assert run.trainer.run() == signal.SIGINT
    assert [path.name for path in run.trainer.checkpoints.paths()] == ["step-000000008"]


def test_lines_after_the_checkpoint_are_cut(start, lines):
    run = start()
    run.trainer.run()
    wanted = lines(run.folder)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # as a killed process leaves it
    again = reopen(run.folder)
    again.trainer.run()
    assert lines(run.folder) == wanted


def test_before_the_first_checkpoint_a_run_begins_anew(start):
    whole = start("whole")
    whole.trainer.run()
    start("killed")  # made, never trained
    again = reopen(whole.folder.parent / "killed")
    again.trainer.run()
    assert result(whole.folder) == result(again.folder)


def test_changed_config_is_refused_by_key(start):
    run = start()
    run.trainer.run()
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.01'))
    with pytest.raises(InputError, match=r"optimizer\.lr \(0\.001 -> 0\.01\)"):
        reopen(run.folder)


def test_changed_data_is_refused(start, tmp_path, task_folder):
    import shutil

    mine = shutil.copytree(task_folder, tmp_path / "mine")
    run = start(data={"source": str(mine), "vocab_size": 400})
    run.trainer.run()
    with (mine / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "title": "", "text": "word1 word2"}\n')
    with pytest.raises(InputError, match=r"other data in .*mine"):
        reopen(run.folder)


def test_pack_keeps_structure_and_shared_tensors_once():
    shared = torch.arange(6.0).view(2, 3)
    state = {"a": [shared, (1, None, "x")], 3: {"b": shared, "c": shared.T, "e": torch.empty(0)}}
    tree, tensors = pack(state)
    back = unpack(tree, tensors)
    assert len(tensors) == 3
    assert back[3]["b"] is back["a"][0]
    assert back["a"][1] == (1, None, "x")
    assert torch.equal(back[3]["c"], shared.T)
    with pytest.raises(InputError, match="a set"):
        pack({"a": {1, 2}})

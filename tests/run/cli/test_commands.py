"""The commands, one after the other, as a user types them."""

import json
import subprocess
import sys

import ir_measures
import pytest


@pytest.fixture(scope="module")
def run(small):
    return small / "run"


def test_train_evaluate_search(call, small, run):
    done = call("train", small / "small.toml", "--set", "sampler.num_negatives=2", "--out", run)
    assert done.exit_code == 0, done.output
    assert f"6 steps done; next: negcache evaluate {run}" in done.stdout
    assert json.loads((run / "config.json").read_text())["sampler"]["num_negatives"] == 2

    done = call("evaluate", run, "--split", "dev")
    assert done.exit_code == 0
    assert "mrr10" in done.stdout
    written = json.loads((run / "evaluation" / "dev.json").read_text())
    assert written["step"] == 6
    assert 0 <= written["mrr10"] <= 1
    found = list(ir_measures.read_trec_run(str(run / "evaluation" / "dev.trec")))
    assert len(found) == 24 * 100
    means = ir_measures.calc_aggregate(
        [ir_measures.R @ 10], ir_measures.read_trec_qrels(_qrels(small)), found
    )
    assert means[ir_measures.R @ 10] == pytest.approx(written["r10"])

    done = call("search", run, "word1 word2", "-k", "3")
    assert done.exit_code == 0
    assert done.stdout.count("│") == 3 * 4
    (index,) = (run / "index").iterdir()
    made = index.stat().st_mtime_ns
    asked = call("search", run, "-k", "2", input="word1 word2\nword3\n\n")
    assert asked.exit_code == 0
    assert asked.stdout.count("entry") == 2
    assert index.stat().st_mtime_ns == made  # encoded once


def _qrels(small):
    """The dev judgements in TREC's own form."""
    lines = (small / "task" / "qrels" / "dev.tsv").read_text().splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    path = small / "dev.qrels"
    path.write_text("".join(f"{query} 0 {item} {grade}\n" for query, item, grade in rows))
    return str(path)


def test_a_finished_run_can_be_resumed(call, run):
    done = call("resume", run)
    assert done.exit_code == 0
    assert "6 steps done" in done.stdout


def test_a_damaged_index_is_made_anew(call, run):
    (index,) = (run / "index").iterdir()
    index.write_bytes(b"rubbish")
    assert call("search", run, "word1").exit_code == 0
    assert index.stat().st_size > 1000


def test_damage_is_told_and_passed_over(call, refused, run):
    newest = sorted((run / "checkpoints").iterdir())[-1]
    (newest / "state.json").write_text("{}")
    assert "state.json" in refused("resume", run)
    done = call("resume", run, "--fall-back")
    assert done.exit_code == 0
    assert "6 steps done" in done.stdout


def test_help_names_every_command(call):
    text = call("--help").stdout
    assert all(word in text for word in ("train", "resume", "evaluate", "search", "data", "demo"))


def test_as_a_module_it_is_the_same_command():
    command = [sys.executable, "-m", "negcache", "train", "nowhere.toml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "Expected a TOML config file; got no file nowhere.toml. To fix this: check the path.\n"
    )

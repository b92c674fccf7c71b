"""The demo on real data: trains, compares, answers; started again it goes on where it was."""

import json

import pytest


@pytest.mark.slow
def test_demo_and_again(call, tmp_path):
    done = call("demo", "--steps", "3", "--out", tmp_path / "demo")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "117,659 entries" in done.stdout
    assert done.stdout.count("entry") >= 2  # two tables of answers
    assert "at equal seconds" in done.stdout
    assert "<img" in (tmp_path / "demo" / "comparison" / "comparison.html").read_text()
    runs = sorted(path for path in (tmp_path / "demo").iterdir() if path.name != "comparison")
    assert [run.name for run in runs] == ["auto", "cached", "in_batch", "uniform"]
    measured = [run / "evaluation" / "test.json" for run in runs]
    assert all(0 < json.loads(path.read_text())["mrr10"] < 1 for path in measured)
    before = [path.stat().st_mtime_ns for path in measured]
    again = call("demo", "--steps", "3", "--out", tmp_path / "demo")
    assert again.stdout == done.stdout
    assert [path.stat().st_mtime_ns for path in measured] == before

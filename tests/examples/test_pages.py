"""The snippets of some pages of the docs run as they stand, one after the other."""

import re
import subprocess
import sys
from pathlib import Path

import processes
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOT_HERE = "benchmarks.datasets", "recbole", "SasRec(", "Stream.open("
"""Snippets with these names download, need a package that is not installed, or have own tests."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "last"),
    [
        ("recommendation", r"Recall@10 0\.\d{3}, NDCG@10"),
        ("classifiers", r"exact loss \d+\.\d\d nats(.|\n)*shared uniform: \d+\.\d\d nats"),
        ("data", r"117659 items"),
        ("diagnose", r"(bias 0\.\d{3}, spread \d\.\d{3}\n){3}(.|\n)*x the encodings\."),
        ("dynamic_index", r"pool of \d+, held-out cosine [01]\.\d\d"),
        ("extreme_labels", r"\{'p1': \d+\.\d, .*'psp5': \d+\.\d\}"),
        ("sequences", r"best of all 1682 items: \(32, 10\)\nperplexity \d+"),
    ],
)
def test_a_page_runs_from_top_to_bottom(page, last, tmp_path):
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    snippets = [code for code in snippets if not any(name in code for name in NOT_HERE)]
    assert snippets
    (tmp_path / "page.py").write_text("\n".join(snippets))
    command = [sys.executable, tmp_path / "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(last, done.stdout), done.stdout


@pytest.mark.slow
def test_the_page_of_processes_runs_on_two(tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", (DOCS / "processes.md").read_text(), re.DOTALL)
    (tmp_path / "this.py").write_text(snippet)
    done = processes.torchrun(2, "this.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = re.findall(r"process (\d) of 2: (\d+) rows, [\d,]{5,} bytes sent", done.stdout)
    assert sorted(told) == [("0", "512"), ("1", "488")]

"""The snippets of some pages of the docs run as they stand, one after the other."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
import torch

import negcache as nc
from negcache.run.cli.app import app
from scripts import run_tutorials

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = {"text_retrieval", "integrations"}
"""Pages whose snippets run in tests of their own."""
NOT_HERE = "benchmarks.datasets", "recbole", "SasRec(", "Stream.open("
"""Snippets with these names download, need a package that is not installed, or have own tests."""


TUTORIALS = [f"tutorials/{name}" for name in run_tutorials.names()]
PAGES = [
    ("recommendation", r"Recall@10 0\.\d{3}, NDCG@10"),
    ("classifiers", r"exact loss \d+\.\d\d nats(.|\n)*shared uniform: \d+\.\d\d nats"),
    ("data", r"117659 items"),
    ("diagnose", r"(bias 0\.\d{3}, spread \d\.\d{3}\n){3}(.|\n)*x the encodings\."),
    ("dynamic_index", r"pool of \d+, held-out cosine [01]\.\d\d"),
    ("extreme_labels", r"\{'p1': \d+\.\d, .*'psp5': \d+\.\d\}"),
    ("mathematics", r"every golden vector holds"),
    ("sequences", r"best of all 1682 items: \(32, 10\)\nperplexity \d+"),
]


def snippets_of(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "last"), PAGES)
def test_a_page_runs_from_top_to_bottom(page, last, tmp_path):
    snippets = [code for code in snippets_of(page) if not any(name in code for name in NOT_HERE)]
    assert snippets
    (tmp_path / "page.py").write_text("\n".join(snippets))
    command = [sys.executable, tmp_path / "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(last, done.stdout), done.stdout


@pytest.mark.slow
def test_the_page_of_processes_runs_on_two(tmp_path):
    (snippet,) = snippets_of("processes")
    (tmp_path / "this.py").write_text(snippet)
    done = processes.torchrun(2, "this.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = re.findall(r"process (\d) of 2: (\d+) rows, [\d,]{5,} bytes sent", done.stdout)
    assert sorted(told) == [("0", "512"), ("1", "488")]


@pytest.mark.slow
@pytest.mark.parametrize("name", run_tutorials.names())
def test_a_tutorial_runs_in_two_minutes_and_draws_its_picture(name, tmp_path):
    assert run_tutorials.run(name, tmp_path)
    assert (tmp_path / f"{name}.svg").stat().st_size > 5_000
    assert (DOCS / "pictures" / f"{name}.svg").exists()


def test_the_page_of_streams_runs_in_a_setting():
    corpus = torch.randint(50, (30, 8))
    tower = torch.nn.EmbeddingBag(50, 64)
    ids = torch.arange(4)
    batch = SimpleNamespace(queries=corpus[:4], item_ids=ids, items=corpus[:4], query_ids=ids)
    more = SimpleNamespace(item_ids=torch.arange(9, 30), items=corpus[9:])
    names = {"nc": nc, "item_tower": tower, "query_tower": tower, "score": nc.DotScore(0.05)}
    loop, known = snippets_of("streams")
    exec(loop, names := names | {"batch": batch, "more": more})
    assert names["loss"] == 0  # nothing was cached before
    names["loss_fn"].step()
    assert names["loss_fn"](tower(corpus[:4]), torch.arange(4)) > 0
    every = {"query_ids": ids.repeat_interleave(30), "item_ids": torch.arange(30).repeat(4)}
    exec(known, names := names | every)
    assert names["loss"] == 0, "whatever there is answers every query"
    exec(known, names | {"query_ids": ids, "item_ids": ids})


def test_no_page_with_code_is_forgotten():
    run = {page for page, _ in PAGES} | ELSEWHERE | {"processes", "streams"} | set(TUTORIALS)
    pages = [page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")]
    assert {page for page in pages if snippets_of(page)} == run


def test_commands_of_the_pages_are_there():
    text = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    verbs = set(re.findall(r"(?:^|-m )negcache ([a-z]+)", blocks, re.MULTILINE))
    known = {command.callback.__name__ for command in app.registered_commands}
    assert verbs
    assert verbs <= known
    targets = set(re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z-]+):", (DOCS.parent / "Makefile").read_text(), re.M))

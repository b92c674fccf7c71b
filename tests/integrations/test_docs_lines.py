"""The page on hosts: each snippet runs as it stands, and needs as many lines as the table says."""

import ast
import re
from pathlib import Path

import processes
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
MARK = "# <-"
FIRST, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
CODE = {
    section.partition("\n")[0]: "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    for section in SECTIONS
}
HOSTS = {
    "Hugging Face Trainer": (2, r"'train_loss': \d"),
    "Lightning": (2, r"'val_loss': tensor\(\d"),
    "Accelerate": (1, r"^\d\.\d\d$"),
    "DDP and FSDP2": (2, r"^\d\.\d\d$"),
}
BUILDING = {"cache", "sampler", "loss_fn"}
"""What the loss is made of, and itself."""


def table():
    """Lines by host, of the first screen."""
    rows = re.findall(r"^\| \[(.*?)\]\(.*?\) \| (\d+) \|", FIRST, flags=re.MULTILINE)
    return {host: int(count) for host, count in rows}


def naming(code):
    """Numbers of lines that name negcache or the loss, other than imports and what builds it."""
    nodes = list(ast.walk(ast.parse(code)))
    named = {
        node.lineno for node in nodes if isinstance(node, ast.Name) and node.id in {"nc", "loss_fn"}
    }
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(each, ast.Name) and each.id in BUILDING for each in targets):
            named -= set(range(node.lineno, node.end_lineno + 1))
    return named


def calling(code):
    """Numbers of lines that call the adapter or a method of its objects, ``pairs`` and ``loss``."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute):
            called = called.value
            known = {"pairs", "loss"}
        else:
            known = {"corpus_pairs", "CorpusSoftmaxLoss"}
        if isinstance(called, ast.Name) and called.id in known:
            found.add(node.lineno)
    return found


def marked(code):
    return {number for number, line in enumerate(code.splitlines(), 1) if line.endswith(MARK)}


@pytest.mark.parametrize("host", HOSTS)
def test_lines_are_those_that_the_table_counts(host):
    lines, _ = HOSTS[host]
    assert table()[host] == lines
    assert len(marked(CODE[host])) == lines
    assert naming(CODE[host]) == marked(CODE[host])


def test_what_makes_the_loss_is_counted_for_sentence_transformers():
    code = CODE["sentence-transformers"]
    assert table()["sentence-transformers"] == len(marked(code)) == 3
    assert calling(code) == marked(code)


def test_nothing_is_counted_twice_or_hidden():
    """The rule itself: building the loss is free, its use is not."""
    assert not naming(CODE["The same for all"])
    code = "import negcache as nc\nloss_fn = nc.SoftmaxLoss(\n    nc.Score())\nloss_fn.step()\n"
    assert naming(code) == {4}
    assert table().keys() >= HOSTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_a_snippet_runs_as_it_stands(host, tmp_path):
    _, printed = HOSTS[host]
    script = tmp_path / "this.py"
    script.write_text(CODE["The same for all"] + CODE[host])
    done = processes.torchrun(2 if host.startswith("DDP") else 1, script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(printed, done.stdout, flags=re.MULTILINE), done.stdout

"""The product is the snippet in the README: it runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SNIPPET, STREAM = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


EXPLAINED = "print(loss_fn.sampler.explain())"


def run(code, folder):
    script = folder / "snippet.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=500
    )


def loss_in(printed):
    return float(re.search(r"-log p\+ = ([\d.]+) nats over 117,659 items", printed)[1])


@pytest.mark.slow
def test_the_snippet_runs_as_it_stands_and_learns(tmp_path):
    done = run(SNIPPET, tmp_path)
    assert done.returncode == 0, done.stderr
    assert loss_in(done.stdout) < 10  # log(117,659) = 11.7 knows nothing
    assert (tmp_path / "loss.pt").exists()


@pytest.mark.slow
def test_the_snippet_of_a_stream_runs_as_it_stands_and_learns(tmp_path):
    done = run(STREAM, tmp_path)
    assert done.returncode == 0, done.stderr
    loss, held = re.search(r"= ([\d.]+) nats over the last ([\d,]+) items", done.stdout).groups()
    assert float(loss) < 8.5  # log of what the rows stand for, 80,000 and more, is 11.3
    assert held == "16,384"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"auto"', "nc.SharedDraws(nc.Uniform(task.corpus, 1))"),
        ('"auto"', "nc.SharedDraws(nc.CachedSoftmax(nc.DenseCache(len(task.corpus), 64), 1))"),
    ],
)
def test_one_word_changes_the_sampler(tmp_path, old, new):
    changed = SNIPPET.replace(old, new, 1).replace(EXPLAINED, "")
    assert EXPLAINED in SNIPPET
    assert new in changed
    done = run(changed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert loss_in(done.stdout) < 10


def test_the_snippet_is_short():
    assert len([line for line in SNIPPET.splitlines() if line.strip()]) <= 26
    assert len([line for line in STREAM.splitlines() if line.strip()]) <= 25

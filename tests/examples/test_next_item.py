"""The next-item example on WordNet's own words, read two letters at a time, and on ml-100k."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from safetensors import safe_open

from benchmarks.datasets.movielens import write_movielens
from negcache.run.data.wordnet import entries

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "next_item.py"
FIGURE = re.compile(r"^(.+): Recall@10 ([\d.]+), NDCG@10 ([\d.]+)$", re.MULTILINE)


def pairs(word: str) -> list[str]:
    """re, ea, ad of "read"; of a repeated one the first."""
    return list(dict.fromkeys(word[at : at + 2] for at in range(len(word) - 1)))


@pytest.fixture(scope="module")
def words():
    """1,500 nouns of 7 to 12 letters, spread over the file."""
    lemmas = (entry.lemmas[0] for entry in entries() if entry.pos == "n")
    fit = [w for w in dict.fromkeys(lemmas) if 7 <= len(w) <= 12 and w.isascii() and w.islower()]
    fit = [word for word in fit if word.isalpha()]
    return {word: pairs(word) for word in fit[:: len(fit) // 1500][:1500]}


@pytest.fixture(scope="module")
def told(words, tmp_path_factory):
    """What the example says of a log in which a word takes its pairs of letters."""
    folder = tmp_path_factory.mktemp("words")
    users = [word for word, taken in words.items() for _ in taken]
    items = [pair for taken in words.values() for pair in taken]
    parquet.write_table(pa.table({"user": users, "item": items}), folder / "log.parquet")
    return run(folder, folder / "log.parquet", 8), folder


def run(folder: Path, log: Path, epochs: int) -> dict[str, tuple[float, float]]:
    """Recall and NDCG by the name under which they are printed."""
    command = [sys.executable, EXAMPLE, "--log", log, "--epochs", str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    assert done.returncode == 0, done.stderr
    found = FIGURE.findall(done.stdout)
    return {name.split(";")[-1].strip(): (float(r), float(n)) for name, r, n in found}


def test_it_learns_what_comes_next(told, words):
    """No order of the items that forgets the sequence comes near: not even that of the answers."""
    asked = {word: taken for word, taken in words.items() if len(taken) >= 3}
    answers = Counter(taken[-1] for taken in asked.values()).most_common()
    hits = 0
    for taken in asked.values():
        new = [pair for pair, _ in answers if pair not in taken[:-1]][:10]
        hits += taken[-1] in new
    figures = told[0]
    assert figures["untrained"][0] < 0.1
    assert figures["test"][0] > 1.3 * hits / len(asked)
    assert figures["test"][1] < 0.9  # nobody knows how each word ends


def test_the_checkpoint_is_the_model(told):
    figures, folder = told
    assert figures["from next-item.safetensors"] == figures["test"]
    with safe_open(folder / "next-item.safetensors", "pt") as saved:
        assert "items.weight" in saved.keys()  # noqa: SIM118 (no mapping)
        assert not [name for name in saved.keys() if "table" in name]  # noqa: SIM118


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 125


@pytest.mark.slow
@pytest.mark.network
def test_movielens(tmp_path):
    write_movielens(tmp_path / "movielens")
    figures = run(tmp_path, tmp_path / "movielens" / "log.parquet", 5)
    assert figures["test"][1] > 0.055  # 0.045 for the most popular films

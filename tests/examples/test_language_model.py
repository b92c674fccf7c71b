"""The language model of the examples on WordNet's definitions, and on Brown."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from benchmarks.datasets.corpora import Document, tokens
from benchmarks.datasets.next_word import number, open_next_word, write_brown, write_next_word
from examples.language_model import LanguageModel
from negcache import SoftmaxHead
from negcache.run.data.tables import stable_split
from negcache.run.data.wordnet import entries

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "language_model.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """6,000 definitions of nouns, one after the other: 59,448 tokens of 3,876 words to learn."""
    nouns = [entry for entry in entries() if entry.pos == "n"][:6000]
    documents = [Document(noun.id, stable_split(noun.id), [noun.definition]) for noun in nouns]
    out = tmp_path_factory.mktemp("wordnet")
    return write_next_word(out / "definitions", number(documents, tokens), least_count=2)


@pytest.fixture(scope="module")
def told(folder):
    return run(folder, len(open_next_word(folder).vocabulary), steps=60)


def run(folder: Path, words: int, steps: int) -> dict[str, float]:
    """Perplexity by the name under which it is printed."""
    command = [sys.executable, EXAMPLE, folder, "--words", str(words), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(.+): perplexity ([\d.]+)$", done.stdout, re.MULTILINE)
    return {name: float(value) for name, value in found}


def without_context(ids: np.ndarray) -> float:
    """The least perplexity of whoever does not look at the words before: the text's entropy."""
    share = np.bincount(ids) / len(ids)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def test_it_learns_from_the_words_before(told, folder):
    least = without_context(open_next_word(folder).test)
    assert told["untrained"] > least
    assert told["trained"] < 0.9 * least
    assert told["trained"] > 30  # and has not seen the word that it is asked for


def test_it_does_not_look_ahead(folder):
    torch.manual_seed(0)
    model, size = LanguageModel(SoftmaxHead(len(open_next_word(folder).vocabulary), 128)), 20
    words = torch.from_numpy(open_next_word(folder).test[: 2 * size].astype("int64")).view(2, size)
    other = words.clone()
    other[:, 10:] = words.flip(0)[:, 10:]
    before, after = model.hidden(words), model.hidden(other)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert ((before - after)[:, 10:].abs().amax(dim=(1, 2)) > 0.1).all()


def test_the_checkpoint_is_the_model(told, folder):
    assert told["from language-model.safetensors"] == told["trained"]
    with safe_open(folder / "language-model.safetensors", "pt") as saved:
        assert "head.classes.weight" in saved.keys()  # noqa: SIM118 (no mapping)


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 125


@pytest.mark.slow
@pytest.mark.network
def test_brown(tmp_path):
    folder = write_brown(tmp_path / "brown", vocabulary=50_000)
    found = run(folder, 50_000, steps=400)
    assert found["trained"] < 0.95 * without_context(open_next_word(folder).test)

"""The example of very many labels, on WordNet: from a definition to the last words of its names.

"apple tree: any tree of the genus Malus" has the label "tree".
"""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from negcache.run.data import write_xc
from negcache.run.data.wordnet import entries

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "extreme_labels.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """6,000 definitions; every fifth is for testing."""
    out = tmp_path_factory.mktemp("wordnet")
    heads = [
        (entry.definition, {lemma.split()[-1] for lemma in entry.lemmas if " " in lemma})
        for entry in entries()
        if entry.pos == "n"
    ]
    seen = Counter(head for _, mine in heads for head in mine)
    names = sorted(head for head, count in seen.items() if count >= 20)
    number = {name: place for place, name in enumerate(names)}
    kept = [(text, mine & set(names)) for text, mine in heads]
    kept = [(text, mine) for text, mine in kept if mine][:6000]
    pairs = [(row, number[head]) for row, (_, mine) in enumerate(kept) for head in mine]
    rows, columns = np.array(pairs).T
    labels = sp.csr_array((np.ones(len(rows)), (rows, columns)), (len(kept), len(names)))
    texts = TfidfVectorizer(token_pattern=r"\w+").fit_transform([text for text, _ in kept])
    test = np.arange(len(kept)) % 5 == 0
    write_xc(out / "train.txt", texts[~test], labels[~test])
    write_xc(out / "test.txt", texts[test], labels[test])
    return out


def test_it_learns_labels_from_features(folder):
    command = [sys.executable, EXAMPLE, "--folder", folder, "--epochs", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    got = {name: float(value) for name, value in re.findall(r"(\w+): ([\d.]+)", done.stdout)}
    assert list(got) == ["p1", "p3", "p5", "psp1", "psp3", "psp5"]
    assert got["p1"] > 30  # 5 for always the commonest word
    assert got["psp5"] > 30


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 60

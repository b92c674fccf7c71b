"""Cities as classes: aliases split by their hash, a training row for every class."""

from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from benchmarks.datasets.city_names import (
    distinct_aliases,
    features,
    open_city_classes,
    split_of,
    split_rows,
    write_city_classes,
)
from negcache.errors import InputError
from negcache.towers import WeightedBagTower

NAMES = ["Praha", "Wien", "Moskva", "Sant Julià de Lòria", "Springfield"]
ALIASES = [
    ["Prague", "Prag", "Praga", "PRAGUE", "Прага", "Praha", "Prāga", "Prágai"],
    ["Vienna", "Vienne", "Viena", "Bécs", "Vídeň", "Dunaj", "Beč", "Wina"],
    ["Moscow", "Moscou", "Moskau", "Mosca", "Moscú", "moskva", "Moskwa", "Maskva"],
    ["", "Сан-Жулиа"],
    ["Prague", "Vienna"],
]


@pytest.fixture
def folder(tmp_path):
    """As `write_city_classes` leaves it, with two classes."""
    for split, texts, targets in (
        ("train", ["Praha", "Wien", "Prag"], [0, 1, 0]), ("dev", ["Viena"], [1]),
        ("test", ["Prague", "Vienna"], [0, 1]),
    ):  # fmt: skip
        sp.save_npz(tmp_path / f"{split}.npz", features(texts))
        np.save(tmp_path / f"{split}_targets.npy", np.array(targets))
    (tmp_path / "classes.txt").write_text("Praha, CZ\nWien, AT\n", "utf-8")
    return tmp_path


def test_aliases_of_a_city():
    assert distinct_aliases("Praha", ALIASES[0]) == ["Prague", "Prag", "Praga", "Prágai", "Prāga"]
    assert distinct_aliases("Moskva", ["moskva", "Moscow", "MOSCOW"]) == ["Moscow"]


def test_an_alias_is_in_one_split_whatever_its_case():
    texts = [f"{name} {i}" for name in NAMES for i in range(2_000)]
    assert all(split_of(text) == split_of(text.upper()) for text in texts[:200])
    shares = Counter(split_of(text) for text in texts)
    expected = {"train": 9_000, "dev": 500, "test": 500}
    chi_square = sum((shares[split] - n) ** 2 / n for split, n in expected.items())
    assert chi_square < 18.4  # p > 1e-4 with two degrees of freedom


def test_every_class_has_a_training_row():
    rows = split_rows(NAMES, ALIASES, 100)
    told = [(row.text, row.target) for split in rows.values() for row in split]
    wanted = {
        (alias, i) for i, of in enumerate(ALIASES) for alias in distinct_aliases(NAMES[i], of)
    }
    own = {(name, i) for i, name in enumerate(NAMES)}
    assert len(set(told)) == len(told)
    assert wanted <= set(told) <= wanted | own
    assert {row.target for row in rows["train"]} == set(range(5))
    assert ("Sant Julià de Lòria", 3) in told
    for split, chosen in rows.items():
        assert all(split_of(row.text) == split for row in chosen if row not in own)


def test_fewer_rows_keep_a_row_a_class():
    whole = split_rows(NAMES, ALIASES, 100)
    for most in (5, 9):
        rows = split_rows(NAMES, ALIASES, most)
        assert len(rows["train"]) == most
        assert {row.target for row in rows["train"]} == set(range(5))
        assert set(rows["train"]) <= set(whole["train"])
        assert (rows["dev"], rows["test"]) == (whole["dev"], whole["test"])
    with pytest.raises(InputError, match="5 training rows or more, one a city; got 4"):
        split_rows(NAMES, ALIASES, 4)


def test_features_are_bags_of_unit_length():
    rows = features(["Wien", "WIEN", "Praha"])
    assert (rows.shape, rows.dtype, np.diff(rows.indptr).tolist()) == (
        (3, 2**18),
        "f4",
        [12, 12, 15],
    )
    assert (rows[[0]] != rows[[1]]).nnz == 0
    assert np.allclose((rows.multiply(rows)).sum(1), 1)


def test_read_as_labelled_points(folder):
    data = open_city_classes(folder)
    train = data.splits["train"]
    assert data.names == ["Praha, CZ", "Wien, AT"]
    assert {split: len(points) for split, points in data.splits.items()} == {
        "train": 3, "dev": 1, "test": 2,
    }  # fmt: skip
    assert (train.num_features, train.num_labels, train.label_counts.tolist()) == (2**18, 2, [2, 1])
    [batch] = train.batches(3, torch.Generator().manual_seed(0))
    assert batch.positives.tolist() == [[[0, 1, 0][row]] for row in batch.query_ids.tolist()]
    assert WeightedBagTower(2**18, dim=3)(batch.queries).shape == (3, 3)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("classes.txt", None, "No such file"),
        ("dev.npz", None, "No such file"),
        ("dev.npz", b"spoilt", r"the readable file .*dev\.npz"),
        ("test_targets.npy", b"spoilt", r"the readable file .*test_targets\.npy"),
        ("classes.txt", b"Praha, CZ\n", r"3 classes from 0 to 0 in train_.*; got 3, from 0 to 1"),
        ("dev_targets.npy", np.array([0, 1]), r"1 classes .* in dev_targets\.npy; got 2"),
        ("dev_targets.npy", np.array([-1]), r"got 1, from -1 to -1"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(folder, file, content, complaint):
    (folder / file).unlink()
    if isinstance(content, bytes):
        (folder / file).write_bytes(content)
    elif content is not None:
        np.save(folder / file, content)
    with pytest.raises(InputError, match=complaint):
        open_city_classes(folder)


@pytest.mark.slow
@pytest.mark.network
def test_city_classes_are_what_they_were(tmp_path):
    data = open_city_classes(write_city_classes(tmp_path / "cities", cache_dir=tmp_path))
    assert {split: len(points) for split, points in data.splits.items()} == {
        "train": 400_000, "dev": 30_042, "test": 30_489,
    }  # fmt: skip
    counts = data.splits["train"].label_counts
    assert (len(data.names), len(counts), int(counts.min())) == (234_908, 234_908, 1)
    assert len(data.splits["train"].features.tokens) == 11_471_154

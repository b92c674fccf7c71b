"""Sparse text files of points and labels: read, written, checked against their header."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negcache.errors import InputError
from negcache.run.data import open_xc, read_xc, write_xc
from negcache.towers import WeightedBagTower

FILE = """\
4 5 3
2,0 0:0.5 4:1.5
 1:2
1 3:0.25
0,2,1
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "train.txt"
    file.write_text(FILE)
    return file


def own(points, row):
    table = points.labels
    return table.items[table.offsets[row] : table.offsets[row + 1]].tolist()


def test_a_file_by_hand(path):
    points = read_xc(path)
    assert (len(points), points.num_features, points.num_labels) == (4, 5, 3)
    assert [own(points, row) for row in range(4)] == [[0, 2], [], [1], [0, 1, 2]]
    assert points.label_counts.tolist() == [2, 2, 2]
    bags = points.features[torch.tensor([1, 0, 3])]
    assert bags.tokens.tolist() == [1, 0, 4]
    assert bags.starts.tolist() == [0, 1, 3]
    assert bags.weights.tolist() == [2.0, 0.5, 1.5]
    assert points.learnable().tolist() == [0, 2]  # one has no label, one no feature


def test_the_tower_is_a_matrix_product(path):
    points = read_xc(path)
    tower = WeightedBagTower(5, dim=3, width=2)
    dense = torch.tensor([[0.5, 0, 0, 0, 1.5], [0, 2, 0, 0, 0], [0, 0, 0, 0.25, 0], [0] * 5])
    expected = tower.out(dense @ tower.features.weight)
    assert torch.allclose(tower(points.features[torch.arange(4)]), expected)


@settings(deadline=None)
@given(seed=st.integers(0, 99), shape=st.tuples(*[st.integers(1, 8)] * 3))
def test_written_and_read_again(seed, shape, tmp_path_factory):
    points, features, labels = shape
    noise = np.random.default_rng(seed)
    rows = sp.random_array((points, features), density=0.5, rng=noise, format="lil").astype("f4")
    rows[:, [0]] = np.ones((points, 1), dtype="f4")  # an empty line would be no point
    true = sp.csr_array((noise.random((points, labels)) < 0.4).astype(int))
    again = read_xc(write_xc(tmp_path_factory.mktemp("xc") / "x.txt", rows.tocsr(), true))
    assert (len(again), again.num_features, again.num_labels) == shape
    got = sp.csr_array(
        (again.features.values, again.features.tokens, again.features.offsets), shape[:2]
    )
    assert (got.toarray() == rows.toarray()).all()
    assert [own(again, row) for row in range(points)] == [
        row.nonzero()[0].tolist() for row in true.toarray()
    ]


def test_batches_give_every_label_of_each_point(tmp_path):
    lines = [f"{','.join(map(str, range(i + 1)))} {i}:1" for i in range(6)]
    (tmp_path / "x.txt").write_text("\n".join(["6 6 6", *lines]) + "\n")
    points = read_xc(tmp_path / "x.txt")
    seen = []
    for batch in points.batches(2, torch.Generator().manual_seed(0)):
        assert batch.positives.shape == (2, int(batch.query_ids.max()) + 1)
        for row, labels in zip(batch.query_ids.tolist(), batch.positives.tolist(), strict=True):
            assert labels == [*range(row + 1)] + [-1] * (len(labels) - row - 1)
            seen.append(row)
        assert batch.queries.tokens.tolist() == batch.query_ids.tolist()
    assert sorted(seen) == list(range(6))
    with pytest.raises(InputError, match="from 1 to the 6 points"):
        points.batches(7, torch.Generator())


def test_some_labels_of_a_point_with_many(tmp_path):
    (tmp_path / "x.txt").write_text("2 1 40\n" + ",".join(map(str, range(39))) + " 0:1\n39 0:1\n")
    points, generator, drawn = read_xc(tmp_path / "x.txt"), torch.Generator().manual_seed(0), set()
    for _ in range(60):
        [batch] = points.batches(2, generator, most_labels=4)
        many, one = batch.positives[batch.query_ids.argsort()]
        assert one.tolist() == [39, -1, -1, -1]
        assert len(many.unique()) == 4
        assert many.min() >= 0
        drawn |= set(many.tolist())
    assert drawn == set(range(39))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("4 5 3", "5 5 3", "5 points in .*train.txt, as its header says; got 4"),
        ("4 5 3", "4 4 3", "features from 0 to 3 in .*; got 0 to 4"),
        ("4 5 3", "4 5 2", "labels from 0 to 1 in .*; got 0 to 2"),
        ("4 5 3", "4 5", "a first line `points features labels` in .*; got '4 5'"),
        ("4 5 3\n", "", "a first line .*; got '2,0 0:0.5 4:1.5'"),
        ("4 5 3", "4 5 9999999999", "counts below 2.31 .*; got 4 5 9999999999"),
        ("4 5 3", "4 5 3_0", "a first line .*; got '4 5 3_0'"),
        ("2,0", "2,-1", "line 2: '2,-1"),
        ("2,0", "2,0.5", "line 2: '2,0.5"),
        ("2,0", "2,zero", "line 2: '2,zero"),
        ("2,0", "2,0_5", "line 2: '2,0_5"),
        ("2,0", "2,٣", "line 2: "),
        ("2,0", "2,7", "labels from 0 to 2 in .*; got 0 to 7"),
        ("2,0", "2,0 qid:3", "line 2: '2,0 qid"),
        ("4:1.5", "4:1.5 # 3:1", "line 2: "),
        ("4:1.5", "4:1_5", "line 2: "),
        ("4:1.5", "9999999999:1", "too large"),
        ("0:0.5 4:1.5", "4:1.5 0:0.5", "ascending features; got .*sorted and unique"),
        ("0:0.5", "-1:0.5", "line 2: '2,0 -1:0.5"),
        ("0:0.5", "0:nan", "line 2: '2,0 0:nan"),
        ("0:0.5", "0:1e99", "finite values in .*; got 1 that are not"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_files_that_are_refused(path, old, new, match):
    assert old in FILE
    path.write_text(FILE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=match):
        read_xc(path)


def test_a_folder(path):
    task = open_xc(path.parent)
    assert list(task.splits) == ["train"]
    assert task.label_names == ["0", "1", "2"]
    (path.parent / "labels.txt").write_text("a\nb\nc\n")
    (path.parent / "test.txt").write_text("1 5 3\n1 0:1\n")
    task = open_xc(path.parent)
    assert list(task.splits) == ["train", "test"]
    assert task.label_names == ["a", "b", "c"]
    (path.parent / "labels.txt").write_text("a\u2028b\r\nb\x0bc\r\nc\r\n", encoding="utf-8")
    assert open_xc(path.parent).label_names == ["a\u2028b", "b\x0bc", "c"]  # not every line end is
    (path.parent / "labels.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"3 lines in .*labels.txt; got 2"):
        open_xc(path.parent)
    (path.parent / "test.txt").write_text("1 5 4\n1 0:1\n")
    with pytest.raises(InputError, match=r"5 features and 3 labels in .*test.txt.*; got 5 and 4"):
        open_xc(path.parent)
    path.unlink()
    with pytest.raises(InputError, match=r"the file .*train.txt"):
        open_xc(path.parent)


def test_as_many_labels_as_a_header_may_say_are_not_listed(path):
    path.write_text(FILE.replace("4 5 3", f"4 5 {2**31 - 1}"))
    names = open_xc(path.parent).label_names
    assert (len(names), names[-1], names[1:3]) == (2**31 - 1, str(2**31 - 2), ["1", "2"])

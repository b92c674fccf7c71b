"""Interaction logs: ids, the split by time, side features, impressions, and what is refused."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.data import Columns, open_interactions
from negcache.run.data.leave_last_out import leave_last_out
from negcache.towers import FeatureTower

LOG = {
    "user": ["ann", "bob", "ann", "ann", "bob", "ann", "cat"],
    "item": ["x", "x", "y", "z", "y", "w", "x"],
    "time": [4, 1, 3, 2, 2, 1, 9],
}


@pytest.fixture
def write(tmp_path):
    def table(name, **columns):
        path = tmp_path / f"{name}.parquet"
        parquet.write_table(pa.table(columns), path)
        return path

    return table


@pytest.fixture
def log(write):
    return write("log", **LOG)


def pairs(data, split):
    judged = data.judgements(split)
    return sorted(zip(data.users.ids(judged.queries), data.items.ids(judged.items), strict=True))


def refused(match, *args, **options):
    with pytest.raises(InputError, match=match):
        open_interactions(*args, **options)


def test_the_last_is_for_testing_and_the_one_before_for_dev(log):
    data = open_interactions(log)
    assert pairs(data, "test") == [("ann", "x")]
    assert pairs(data, "dev") == [("ann", "y")]
    assert pairs(data, "train") == [
        ("ann", "w"), ("ann", "z"), ("bob", "x"), ("bob", "y"), ("cat", "x"),
    ]  # fmt: skip
    assert data.item_counts.tolist() == [2, 1, 1, 1]  # x, y, z, w
    assert data.items.find(["w", "nothing", "x"]).tolist() == [3, -1, 0]


@settings(deadline=None)
@given(
    triples=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 3)),
        unique_by=lambda triple: triple[:2],
        min_size=1,
    )
)
def test_the_split_against_a_plain_sort(triples):
    got = leave_last_out(*(np.array(column) for column in zip(*triples, strict=True)))
    expected = {"train": set(), "dev": set(), "test": set()}
    for user in range(5):
        mine = sorted((t for t in triples if t[0] == user), key=lambda t: t[2])  # stable
        names = ["train"] * len(mine)
        if len(mine) >= 3:
            names[-2:] = ["dev", "test"]
        for name, (_, item, _) in zip(names, mine, strict=True):
            expected[name].add((user, item))
    for split, judged in got.items():
        found = list(zip(judged.queries.tolist(), judged.items.tolist(), strict=True))
        assert len(found) == len(set(found))
        assert set(found) == expected[split]


def test_without_times_the_order_of_the_rows_is_the_order_in_time(write):
    data = open_interactions(write("log", user=LOG["user"], item=LOG["item"]))
    assert pairs(data, "test") == [("ann", "w")]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([datetime.datetime(2020, 1, day) for day in LOG["time"]], pa.timestamp("us")),
        pa.array([datetime.date(2020, 1, day) for day in LOG["time"]]),
        pa.array([day + 0.5 for day in LOG["time"]]),
    ],
    ids=["timestamps", "dates", "fractions"],
)
def test_times_of_any_kind(write, times):
    data = open_interactions(write("log", user=LOG["user"], item=LOG["item"], time=times))
    assert pairs(data, "test") == [("ann", "x")]


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.large_string(), pa.string_view()])
def test_ids_of_any_kind(write, kind):
    numbers = pa.array(["7", "8", "7", "7"]).cast(pa.string()).cast(kind)
    data = open_interactions(write("log", user=numbers, item=pa.array([1, 1, 2, 3])))
    assert pairs(data, "test") == [("7", "3")]
    assert data.users.find(numbers).tolist() == [0, 1, 0, 0]
    assert data.items.find([3, 4]).tolist() == [2, -1]


def test_columns_by_other_names(write):
    path = write("log", who=LOG["user"], what=LOG["item"], at=LOG["time"])
    data = open_interactions(path, columns=Columns(user="who", item="what", time="at"))
    assert pairs(data, "test") == [("ann", "x")]
    refused("columns user, item in .*; got who, what, at", path)
    refused("(no when)", path, columns=Columns(user="who", item="what", time="when"))


def test_side_features_are_codes_and_0_is_unknown(write, log):
    items = write(
        "items",
        item=["y", "x", "v"],
        colour=["red", None, "blue"],
        tags=pa.array([["a", "b"], None, [None, "b"]]),
        size=[1, 2, None],
    )
    with pytest.warns(UserWarning) as told:
        data = open_interactions(log, items=items, item_features=["colour", "tags", "size"])
    assert "2 items of the log that the item table lacks" in str(told[0].message)
    assert "1 items without an interaction (kept as candidates)" in str(told[0].message)
    assert data.items.ids(torch.arange(5)) == ["y", "x", "v", "z", "w"]
    meaning = [[data.items.codes[c] for c in row if c] for row in data.items.features.tolist()]
    assert meaning == [
        [("colour", "red"), ("tags", "a"), ("tags", "b"), ("size", "1")],
        [("size", "2")],
        [("colour", "blue"), ("tags", "b")],
        [],
        [],
    ]
    assert data.corpus[:, 0].tolist() == [0, 1, 2, 3, 4]
    tower = FeatureTower(len(data.items), len(data.items.codes), dim=4)
    assert torch.equal(
        tower(data.corpus)[3:], tower.rows.weight[3:]
    )  # nothing known: nothing added
    red, both = data.items.features[0], data.corpus[:1]
    assert torch.allclose(tower(both)[0], tower.rows.weight[0] + tower.codes.weight[red].sum(0))


def test_users_with_features(write, log):
    users = write("users", user=["cat", "bob", "ann", "dan"], age=[30, 40, 30, 50])
    with pytest.warns(UserWarning, match="1 users without an interaction"):
        data = open_interactions(log, users=users, user_features=["age"])
    assert data.queries.tolist() == [[0, 1], [1, 2], [2, 1], [3, 3]]
    with pytest.raises(InputError, match="a task without faults, log; got 1 users without"):
        open_interactions(log, users=users, strict=True)


def test_batches_carry_what_was_shown_and_not_taken(write, log):
    impressions = write(
        "shown",
        user=["ann", "ann", "ann", "bob", "eve", "bob"],
        item=["y", "w", "y", "z", "x", "nowhere"],
    )
    with pytest.warns(UserWarning) as told:
        data = open_interactions(log, impressions=impressions)
    for fault in (
        "1 impressions of an unknown user",
        "1 impressions of an unknown item",
        "1 impressions of an item that the user took in train",
    ):
        assert fault in str(told[0].message)
    [batch] = data.batches("train", 5, torch.Generator().manual_seed(0))
    assert torch.equal(batch.queries, data.queries[batch.query_ids])
    assert batch.negatives.shape == (5, 1)  # y for ann (once), z for bob
    expected = {"ann": data.items.find(["y"])[0], "bob": data.items.find(["z"])[0], "cat": -1}
    users = data.users.ids(batch.query_ids)
    assert batch.negatives[:, 0].tolist() == [expected[user] for user in users]


def test_many_impressions_take_turns(write, log):
    shown = [f"s{i}" for i in range(20)]
    items = write("items", item=[*"xyzw", *shown])
    impressions = write("shown", user=["cat"] * 20, item=shown)
    with pytest.warns(UserWarning, match="20 items without an interaction"):
        data = open_interactions(log, items=items, impressions=impressions)
    generator, drawn = torch.Generator().manual_seed(0), set()
    for _ in range(40):
        [batch] = data.batches("train", 5, generator, most_negatives=3)
        assert batch.negatives.shape == (5, 3)
        mine = batch.negatives[batch.query_ids == data.users.find(["cat"])[0]]
        assert len(mine.unique()) == 3
        assert (batch.negatives >= 0).any(dim=1).sum() == 1
        drawn |= set(mine.flatten().tolist())
    assert len(drawn) == 20


def test_every_pair_comes_once_an_epoch(log):
    data = open_interactions(log)
    found = [
        (int(user), int(item))
        for batch in data.batches("train", 1, torch.Generator().manual_seed(3))
        for user, item in zip(batch.query_ids, batch.positives, strict=True)
    ]
    judged = data.judgements("train")
    assert sorted(found) == sorted(zip(judged.queries.tolist(), judged.items.tolist(), strict=True))
    with pytest.raises(InputError, match="from 1 to the 5 pairs"):
        data.batches("train", 6, torch.Generator())
    with pytest.raises(InputError, match="train, dev, test; got 'tset'"):
        data.batches("tset", 1, torch.Generator())


def test_what_came_before_a_split(log):
    data = open_interactions(log)
    ann = data.users.find(["ann"])[0]
    before = data.seen_before("test").slice(int(ann), int(ann) + 1)
    assert sorted(data.items.ids(before.ids)) == ["w", "y", "z"]  # not x, which is to be found
    assert len(data.seen_before("train").ids) == 0
    assert len(data.known_positives("dev").items) == 1


def test_repeated_pairs_and_small_weights(write):
    path = write(
        "log",
        user=["a", "a", "a", "a", "b"],
        item=["x", "y", "x", "z", "y"],
        weight=[1.0, 2.0, 5.0, 0.0, 1.5],
    )
    with pytest.warns(UserWarning) as told:
        data = open_interactions(path)
    assert "1 interactions with a weight of 0 or less (left out)" in str(told[0].message)
    assert "1 interactions of a pair that came before (left out)" in str(told[0].message)
    assert pairs(data, "train") == [("a", "x"), ("a", "y"), ("b", "y")]
    with pytest.warns(UserWarning, match="without an interaction"):
        data = open_interactions(path, least_weight=2.0)
    assert pairs(data, "train") == [("a", "x"), ("a", "y")]
    with pytest.raises(InputError, match="0 interactions left"):
        open_interactions(path, least_weight=9.0)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"user": ["a", None]}, "an id in every row of column user of .*; got 1 nulls"),
        ({"item": [1.0, 2.0]}, "strings or integers in column item of .*; got double"),
        ({"time": [1, None]}, "finite numbers in column time of .*; got 1 of 2"),
        ({"time": ["monday", "tuesday"]}, "numbers in column time of .*; got string"),
        ({"weight": [1.0, float("nan")]}, "finite numbers in column weight"),
        ({"weight": [float("inf"), 1.0]}, "got 1 of 2 that are null, NaN or infinite"),
        ({"user": pa.array([], pa.string()), "item": pa.array([], pa.string())}, "rows in .* none"),
        ({"item": [{"a": 1}, {"a": 2}]}, "strings or integers in column item .*; got struct"),
        ({"item": [b"x", b"\xff"]}, "text in column item; got .*UTF"),
        ({"user": ["a\tb", "c"]}, r"without tabs or line breaks; got 'a.tb' in .*log"),
        ({"item": ["x", "y\u2028"]}, "without tabs or line breaks"),
        ({"item": ["x", "x"]}, "at least 2 items in .*; got 2 interactions left, 1 items"),
    ],
)
def test_logs_that_are_refused(write, columns, match):
    refused(match, write("log", **{"user": ["a", "b"], "item": ["x", "y"], **columns}))


def test_files_that_are_refused(write, log, tmp_path):
    refused(r"the file .*nowhere\.parquet; got No such file", tmp_path / "nowhere.parquet")
    (tmp_path / "text.parquet").write_text("user,item\n")
    refused("a Parquet file; got .*text.parquet", tmp_path / "text.parquet")
    twice = write("items", item=["x", "x"], price=[1.5, 2.5], shown=[["a"], None])
    refused(r"distinct ids in .*; got 1 that occur more than once \(x\)", log, items=twice)
    price = write("prices", item=["x", "y"], price=[1.5, 2.5])
    refused("strings, integers.* in column price", log, items=price, item_features=["price"])
    refused(r"\(no colour\)", log, items=price, item_features=["colour"])
    refused(r"columns user, item in .*\(no user\)", log, impressions=price)

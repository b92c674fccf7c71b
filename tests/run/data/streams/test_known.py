"""The known positives of a stream: what its pairs say, in bounded memory, over many calls."""

import json
import random
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import torch
from shards import TOTAL, damage, open_shards, write_shards

from negcache.errors import InputError
from negcache.run.data.streams import ITEMS, PAIRS, hash_ids, known, known_positives
from negcache.run.data.streams.sharded_table import ShardedTable

FEW = 24
"""Pairs sorted at a time here: seven runs or more, and as many ranges."""

QUERIES = 9


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(known, "AT_ONCE", FEW)


def draws(first):
    """A query and an item of each row, the same at each call; many pairs come twice."""
    noise = random.Random(first)
    return lambda: (noise.randrange(QUERIES), noise.randrange(14))


def by_text(first, rows):
    drawn = [draws(first + row)() for row in range(rows)]
    return {
        "query": [f"query {query}" for query, _ in drawn],
        "item": [item for _, item in drawn],
        "text": [f"text {item}" for _, item in drawn],
    }


def by_number(first, rows):
    """Query ids of their own, which texts do not tell."""
    told = by_text(first, rows)
    return told | {
        "query_id": [2**40 * int(text[6:]) for text in told["query"]],
        "query": ["a"] * rows,
    }


def by_name(first, rows):
    """Ids of both sides are strings, some by a dictionary."""
    told = by_text(first, rows)
    names = pa.array([f"i{item}" for item in told["item"]]).dictionary_encode()
    return told | {"query_id": [text[6:] for text in told["query"]], "item": names}


def truth(folder, rows):
    """The items of each query id, by what a batch of all rows says itself."""
    found = {}
    batch = open_shards(folder, batch_size=TOTAL).batch(0)
    for query, item in zip(batch.query_ids.tolist(), batch.item_ids.tolist(), strict=True):
        found.setdefault(query, set()).add(item)
    return found


@pytest.mark.parametrize("rows", [by_text, by_number, by_name])
def test_a_table_is_the_pairs_of_the_stream(tmp_path, rows):
    folder = write_shards(tmp_path / "pairs", rows=rows)
    table, expected = known_positives(open_shards(folder)), truth(folder, rows)
    assert table.queries.tolist() == sorted(expected)
    assert np.diff(table.offsets).tolist() == [len(expected[query]) for query in table.queries]
    assert len(expected) == QUERIES
    ids = torch.tensor([*expected, 77])
    excluded = table.exclusion(ids, torch.full((QUERIES + 1,), 3))
    for row, query in enumerate(ids.tolist()):
        own = excluded.ids[excluded.offsets[row] : excluded.offsets[row + 1]]
        assert own.tolist() == sorted(expected.get(query, set()) | {3})
    assert isinstance(table.items, np.memmap)


def test_ids_are_those_of_the_columns_or_hashes_of_texts(tmp_path):
    texts = write_shards(tmp_path / "text", rows=by_text)
    (expected,) = hash_ids(["query 4"]).ids.tolist()
    assert expected in known_positives(open_shards(texts)).queries
    numbers = write_shards(tmp_path / "number", rows=by_number)
    queries = known_positives(open_shards(numbers)).queries
    assert queries.tolist() == [2**40 * query for query in range(QUERIES)]
    batch = open_shards(numbers).batch(0)
    kept = torch.arange(10) % 3 == 0
    assert torch.equal(batch.only(kept).query_ids, batch.query_ids[kept])


@pytest.fixture
def read(monkeypatch):
    """What was read: the names of the columns, for each row group."""
    seen, real = [], ShardedTable.read

    def reading(self, group):
        seen.append((group, tuple(self.schema.names)))
        return real(self, group)

    monkeypatch.setattr(ShardedTable, "read", reading)
    return seen


def test_each_row_group_is_read_once_and_of_it_ids_alone(tmp_path, read):
    stream = open_shards(write_shards(tmp_path / "pairs", rows=by_number))
    known_positives(stream)
    groups = len(stream.table.rows)
    assert read == [(group, ("query_id", "item")) for group in range(groups)]
    known_positives(stream)
    assert len(read) == groups, "the second call finds the table"


def test_a_full_disk(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "pairs", rows=by_text)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(known, "say_written", full)
        with pytest.raises(InputError, match=r"to write the known positives into .*No space left"):
            known_positives(open_shards(folder))
    assert len(known_positives(open_shards(folder))) == QUERIES


PLACES = ["_sort_run", "_of_range", "say_written", "by_query", "remove", "write_manifest"]


@pytest.mark.parametrize("place", PLACES)
def test_what_is_interrupted_goes_on_and_ends_in_the_same_bytes(
    tmp_path, monkeypatch, read, cache_of_this_test, place
):
    folder = write_shards(tmp_path / "pairs", rows=by_text)
    known_positives(open_shards(folder), cache_dir=tmp_path / "straight")
    expected = files(tmp_path / "straight")
    real, calls = getattr(known, place), []
    read.clear()

    def interrupted(*words):
        calls.append(place)
        if len(calls) in (3, 4, 9) or (len(calls) == 1 and place in ("remove", "write_manifest")):
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(known, place, interrupted)
    stops = 0
    while not (cache_of_this_test / "streams").exists() or not files(cache_of_this_test):
        try:
            known_positives(open_shards(folder))
        except KeyboardInterrupt:
            stops += 1
    assert stops
    assert files(cache_of_this_test) == expected
    groups = [group for group, _ in read]
    again = len(groups) - len(set(groups))
    assert again <= 3 * stops, "runs that are complete are not read again"
    assert not [*cache_of_this_test.rglob("runs*"), *cache_of_this_test.rglob("*.part-*")]


def files(cache):
    """The bytes of complete tables."""
    return {
        path.name: path.read_bytes()
        for path in cache.glob("streams/known-*/*")
        if path.suffix == ".npy"
    }


def test_of_many_pairs_some_at_a_time_are_in_memory(tmp_path, monkeypatch):
    """Counted as numpy allocates it; ten times the pairs take no more."""
    at_once, most = 1 << 14, []
    monkeypatch.setattr(known, "AT_ONCE", at_once)
    for times in (1, 10):
        stream = open_shards(
            write_shards(
                tmp_path / f"{times}", rows=lambda f, r, t=times: many(f, r, t), group=2048
            )
        )
        known_positives(stream)  # what is imported and compiled on the way
        tracemalloc.start()
        table = known_positives(stream, cache_dir=tmp_path / f"cache-{times}")
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(table.items) > 0.9 * times * 2 * at_once
    room = 4 << 20  # hashes and strings of 8,192 rows at a time
    assert most[1] <= known.PAIR_BYTES * at_once + room
    assert most[1] < 1.3 * most[0]


def many(first, rows, times):
    noise = np.random.default_rng(first)
    size = times * 2 * (1 << 14) // 5
    asked = noise.integers(0, size // 4, size)
    return {
        "query": ["?"] * size,
        "query_id": asked,
        "item": noise.integers(0, 2**50, size),
        "text": ["!"] * size,
    }


def test_a_query_of_more_pairs_than_are_sorted_at_a_time(tmp_path):
    def rows(first, size):
        ids = list(range(first, first + size))
        return by_text(first, size) | {"query": ["one", *["two"] * (size - 1)], "item": ids}

    table = known_positives(open_shards(write_shards(tmp_path / "pairs", rows=rows)))
    assert sorted(np.diff(table.offsets).tolist()) == [5, TOTAL - 5]
    assert sorted(table.items.tolist()) == list(range(TOTAL))


def test_a_damaged_table_is_made_anew(tmp_path, cache_of_this_test):
    folder = write_shards(tmp_path / "pairs", rows=by_text)
    known_positives(open_shards(folder))
    expected = files(cache_of_this_test)
    (path,) = cache_of_this_test.glob("streams/known-*/items.npy")
    path.write_bytes(path.read_bytes()[:-8] + b"\1" * 8)
    with pytest.warns(UserWarning, match=r"damaged or missing: items.npy. It is made anew"):
        known_positives(open_shards(folder))
    assert files(cache_of_this_test) == expected


def test_a_file_that_changed_has_another_table(tmp_path):
    folder = write_shards(tmp_path / "pairs", rows=by_text)
    before = known_positives(open_shards(folder))
    write_shards(folder, rows=lambda first, size: by_text(first + 1000, size))
    after = known_positives(open_shards(folder))
    assert before.items.tolist() != after.items.tolist()


def test_broken_row_groups(tmp_path):
    folder = write_shards(tmp_path / "pairs", rows=by_text)
    whole = known_positives(open_shards(folder))
    damage(folder / "part-1.parquet", 2, "item")
    with pytest.raises(InputError, match=r"part-1.parquet, row group 2"):
        known_positives(open_shards(folder))
    some = known_positives(open_shards(folder, skip_broken=True))
    assert 0 < len(some.items) <= len(whole.items)


def test_an_id_that_is_none(tmp_path):
    def rows(first, size):
        return by_number(first, size) | {"query_id": [*range(size - 1), None]}

    folder = write_shards(tmp_path / "pairs", rows=rows)
    with pytest.raises(InputError, match=r"an id in every row; got none in .*part-0.*row 1"):
        known_positives(open_shards(folder))
    halves = write_shards(tmp_path / "odd", rows=halved)
    with pytest.raises(InputError, match=r"strings as ids in column query_id of .*; got double"):
        open_shards(halves)
    items = open_shards(write_shards(tmp_path / "items", rows=renamed), ITEMS)
    with pytest.raises(InputError, match="a stream of pairs"):
        known_positives(items)


def halved(first, rows):
    return by_text(first, rows) | {"query_id": [0.5] * rows}


def renamed(first, rows):
    told = by_text(first, rows)
    return {"_id": told["item"], "text": told["text"]}


def test_json_lines_may_have_query_ids(tmp_path):
    rows = by_number(0, 40)
    names = [*rows]
    lines = [dict(zip(names, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = known_positives(open_shards(path))
    assert set(table.queries.tolist()) == set(rows["query_id"])
    plain = [{name: line[name] for name in ("query", "item", "text")} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in plain))
    assert open_shards(path).columns.query_key(open_shards(path).table.schema.names) == "query"
    del lines[30]["query_id"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"line 31.*without query_id"):
        open_shards(path)
    assert PAIRS.query_id == "query_id"

"""Ids are the user's own, and one that stands for two texts is found while it is remembered."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from shards import open_shards, pairs, write_shards

from negcache.errors import InputError
from negcache.run.data.streams import ITEMS, TextsById, hash_ids, ids


def test_strings_have_the_same_63_bits_on_every_machine():
    found = hash_ids(["d1", "d2", "", "é"])
    assert found.ids.tolist() == [
        6434412621151360885,
        7136760424799270139,
        4706689691367174364,
        2531752895736267069,
    ]
    assert found.checks.tolist() == [4252095664, 1069533766, 194630154, 1855808773]
    assert found.keys == ["d1", "d2", "", "é"]
    assert found.shown(1) == "'d2'"


def test_hashes_are_spread_and_never_negative():
    found = hash_ids([str(i) for i in range(20_000)])
    assert found.ids.min() >= 0
    assert found.ids.max() > 2**62
    assert len(set(found.ids.tolist())) == len(found.ids)
    bits = found.ids[:, None] >> np.arange(63) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 20_000**0.5
    assert abs(np.corrcoef(found.ids, found.checks)[0, 1]) < 0.03


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64()])
def test_whole_numbers_are_ids_as_they_are(kind):
    column = pa.chunked_array([pa.array([3, 0, 9], kind)])
    found = ids.item_ids(column, str)
    assert found.ids.tolist() == [3, 0, 9]
    assert found.ids.dtype == np.int64
    assert found.keys is None
    assert found.shown(2) == "9"
    assert ids.item_ids(column.dictionary_encode(), str).ids.tolist() == [3, 0, 9]


def table(path, keys, texts):
    """A stream of one batch."""
    parquet.write_table(pa.table({"_id": keys, "text": texts}), path, row_group_size=2)
    return open_shards(path, ITEMS, batch_size=len(keys))


def check(seen, stream):
    seen.check(stream.batch(0).identities, stream.table)


def test_one_text_for_each_id_is_well(tmp_path):
    stream = open_shards(write_shards(tmp_path / "shards"))
    seen = TextsById(64)
    for number in range(30):
        seen.check(stream.batch(number).identities, stream.table)


def test_two_texts_in_a_batch(tmp_path):
    stream = table(tmp_path / "a.parquet", ["x", "y", "z", "y"], ["1", "2", "3", "4"])
    places = (
        r"(row group 0, row 1, and .*row group 1, row 1|row group 1, row 1, and .*group 0, row 1)"
    )
    with pytest.raises(
        InputError, match=r"one text for each item id; got two for 'y': .*" + places
    ):
        check(TextsById(), stream)


def test_two_texts_in_two_streams(tmp_path):
    seen = TextsById()
    check(seen, table(tmp_path / "a.parquet", [5, 6], ["1", "2"]))
    check(seen, table(tmp_path / "b.parquet", [6, 7], ["2", "3"]))
    with pytest.raises(InputError) as told:
        check(seen, table(tmp_path / "c.parquet", [8, 5], ["4", "changed"]))
    assert str(told.value) == (
        f"Expected one text for each item id; got two for 5: {tmp_path}/a.parquet, row group 0, "
        f"row 0, and {tmp_path}/c.parquet, row group 0, row 1. To fix this: correct one of them, "
        "or give the items ids of their own."
    )


def test_memory_is_bounded_and_what_lost_its_slot_is_not_seen(tmp_path):
    seen = TextsById(capacity=8)
    check(seen, table(tmp_path / "a.parquet", [1, 2], ["1", "2"]))
    check(seen, table(tmp_path / "b.parquet", [9, 4], ["3", "4"]))  # 9 takes the slot of 1
    check(seen, table(tmp_path / "c.parquet", [1, 3], ["other", "5"]))
    with pytest.raises(InputError, match="two for 2"):
        check(seen, table(tmp_path / "d.parquet", [2, 11], ["other", "6"]))
    assert seen._seen.nbytes == 30 * 8


def test_strings_whose_hashes_collide(tmp_path, monkeypatch):
    def short(keys):
        found = hash_ids(keys)
        return found._replace(ids=found.ids % 2)

    monkeypatch.setattr(ids, "hash_ids", short)
    seen, same = TextsById(), ["0"] * 3
    with pytest.raises(
        InputError, match=r"hashes differ; got '\w' in .*, and another string .*a.p"
    ):
        check(seen, table(tmp_path / "a.parquet", ["a", "b", "c"], same))


def test_items_without_text_conflict_with_none(tmp_path):
    seen = TextsById()
    stream = open_shards(write_shards(tmp_path / "shards"))
    bare = open_shards(tmp_path / "shards", ITEMS.__class__(query=None, text=None))
    for number in range(5):
        seen.check(stream.batch(number).identities, stream.table)
        seen.check(bare.batch(number).identities, bare.table)
    assert pairs(0, 1)["text"] == ["text 0"]

"""What is wrong with shards is told by file, row group and row; what is skipped, once."""

import re
import warnings

import pyarrow as pa
import pytest
from pyarrow import parquet
from shards import (
    FILES,
    TOTAL,
    assert_places_are_right,
    damage,
    ids_of,
    open_shards,
    pairs,
    process,
    write_shards,
)

from negcache.errors import InputError
from negcache.run.data.streams import ITEMS, StreamColumns

PER_EPOCH = TOTAL // 10


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards")


def refused(match, source, *settings, **options):
    with pytest.raises(InputError, match=match) as told:
        open_shards(source, *settings, **options)
    return str(told.value)


def read_through(stream):
    return ids_of(stream, 0, PER_EPOCH)


def rewrite(path, **columns):
    """The file with other columns; None leaves one out."""
    table = parquet.read_table(path).to_pydict() | columns
    kept = {name: values for name, values in table.items() if values is not None}
    parquet.write_table(pa.table(kept), path, row_group_size=7)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("nowhere", "files .*; got .*nowhere"),
        ("nowhere/*.parquet", r"files \(.parquet, .pq, .jsonl, .*\) in .*; got none"),
        ("s4://bucket/x.parquet", "files at s4://bucket/x.parquet; got Protocol not known: s4"),
        ("part-0.csv", r"files \(.parquet.*; got .*part-0.csv. .*rename it"),
        ("nowhere/a.parquet", "a Parquet file; got .*nowhere/a.parquet: .*[Nn]o such file"),
        ("memory://nowhere/a.parquet", "a Parquet file; got memory:///nowhere/a.parquet: "),
    ],
)
def test_nothing_to_read(tmp_path, source, match):
    refused(match, source if "://" in source else tmp_path / source)


def test_a_file_twice_and_two_kinds(folder):
    path = folder / "part-1.parquet"
    refused("every file once; got .*part-1.parquet more than once", [folder, path])
    (folder / "more.jsonl").write_text('{"item": 1, "query": "a", "text": "b"}\n')
    refused("Parquet or JSON lines in .*shards; got both", folder)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda data: b"", "part-2.parquet: Parquet file size is 0 bytes. To fix this: restore"),
        (lambda data: data[: len(data) // 2], "part-2.parquet: Parquet magic bytes not found"),
        (lambda data: b"no parquet at all", "a Parquet file; got .*part-2.parquet"),
    ],
)
def test_a_file_that_is_empty_truncated_or_something_else(folder, spoil, match):
    path = folder / "part-2.parquet"
    path.write_bytes(spoil(path.read_bytes()))
    refused(match, folder)
    refused(match, folder, skip_broken=True)


def test_a_file_without_rows(folder):
    path = folder / "part-3.parquet"
    parquet.write_table(parquet.read_table(path)[:0], path)
    refused("rows in .*part-3.parquet; got none", folder)


def test_files_that_differ(folder):
    path = folder / "part-3.parquet"
    rewrite(path, item=[str(i) for i in range(26)])
    told = refused("one schema in all files", folder)
    assert re.search(r"column item of type int64 in .*part-0.parquet; got item of type st", told)
    assert "string in" in told
    assert "part-3.parquet" in told
    rewrite(path, item=None)
    refused("item of type int64 in .*part-0.parquet; got item absent in .*part-3.parquet", folder)
    rewrite(path, item=list(range(26)), title=["t"] * 26)
    refused("title absent in .*part-0.parquet; got title of type string in .*part-3", folder)
    rewrite(path, title=None, other=["t"] * 26)
    assert len(open_shards(folder).table) == TOTAL


def test_columns_that_are_not_there_or_cannot_be_read_so(folder, tmp_path):
    refused(r"columns _id, text in .*; got query, item, text \(no _id\)", folder, ITEMS)
    refused("strings in column item of .*; got int64", folder, StreamColumns(text="item"))
    refused(
        "whole numbers or strings as ids in column item of .*; got double",
        write_shards(tmp_path / "floats", rows=lambda *at: pairs(*at) | {"item": [0.5] * at[1]}),
    )
    refused(
        "numbers or lists of numbers in column text of .*; got string",
        folder,
        StreamColumns(features=("text",)),
    )
    refused("a batch of 1 to 125 rows; got one of 126", folder, batch_size=126)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: path.unlink(), r"part-2.parquet, row group \d: .*[Nn]o such file"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:700]),
            r"part-2.parquet, row group \d: Parquet magic bytes not found",
        ),
        (
            lambda path: rewrite(path, text=list(range(25))),
            r"part-2.parquet, row group \d: 7 rows of .*text int64",
        ),
        (
            lambda path: parquet.write_table(parquet.read_table(path), path, row_group_size=6),
            r"part-2.parquet, row group \d: 6 rows of item int64, query string, text string",
        ),
        (
            lambda path: rewrite(path, text=None),
            r"part-2.parquet, row group \d: .*text.* does not exist in schema",
        ),
        (lambda path: damage(path, 1), r"part-2.parquet, row group 1: "),
    ],
)
def test_a_file_that_breaks_in_the_middle_of_an_epoch(folder, spoil, match):
    for ahead in (False, True):
        path = write_shards(folder) / "part-2.parquet"
        stream = open_shards(folder, read_ahead=ahead)
        stream.batch(0)
        spoil(path)
        with pytest.raises(InputError, match=r"readable rows, as there .*; got .*" + match):
            read_through(stream)
        stream.close()


def test_a_text_that_is_no_utf8(folder):
    path = folder / "part-1.parquet"
    broken = pa.array([b"caf\xe9"] * 24, pa.binary()).view(pa.string())
    rewrite(path, text=broken)
    with pytest.raises(InputError, match=r"part-1.parquet, row group \d: .*UTF8"):
        read_through(open_shards(folder))


def skipping(folder, told, **options):
    """A stream that skips what is broken, and what it tells of it."""
    stream = open_shards(folder, skip_broken=True, **options)
    stream._reader.tell = told.append
    return stream


def test_a_broken_row_group_is_skipped_when_told_to_and_the_order_stays(folder):
    whole = ids_of(open_shards(folder), 0, 2 * PER_EPOCH)
    damage(folder / "part-1.parquet", 2)
    gone = set(range(23 + 14, 23 + 21))
    expected = [[one for one in batch if one not in gone] for batch in whole]
    told = []
    stream = skipping(folder, told)
    assert ids_of(stream, 0, 2 * PER_EPOCH) == expected
    assert len(told) == 1
    assert told[0].startswith("Skipped 7 rows: ")
    assert "part-1.parquet, row group 2: " in told[0]
    assert told[0].endswith(stream.broken[0])
    assert ids_of(skipping(folder, told), 5, 20) == expected[5:20]
    ahead = skipping(folder, told, read_ahead=True)
    assert ids_of(ahead, 0, 20) == expected[:20]
    ahead.close()
    for number in range(PER_EPOCH):
        assert_places_are_right(stream, stream.batch(number))
    shares = [skipping(folder, [], mesh=process(rank, 3)) for rank in range(3)]
    for number in range(PER_EPOCH):
        shared = [one for part in shares for one in part.batch(number).item_ids.tolist()]
        assert shared == expected[number]


def test_it_is_warned_of_once(folder):
    damage(folder / "part-1.parquet", 2)
    stream = open_shards(folder, skip_broken=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ids_of(stream, 0, 2 * PER_EPOCH)
    assert len(told) == 1
    assert "Skipped 7 rows" in str(told[0].message)


def test_a_batch_of_which_nothing_is_left(folder):
    for number in range(FILES):
        for group in range(3):
            damage(folder / f"part-{number}.parquet", group)
    stream = skipping(folder, [], batch_size=2, window=1)
    with pytest.raises(InputError, match=r"a row of batch \d+ that can be read; got row groups"):
        ids_of(stream, 0, 60)


@pytest.mark.parametrize(
    ("spoilt", "match"),
    [
        ({"item": [-1, 1]}, r"ids of 0 or more, below 2\^63; got -1 in .*a.parquet, row group 0, "),
        ({"item": pa.array([2**63, 1], pa.uint64())}, "got 9223372036854775808 in .*row 0"),
        ({"item": [None, 1]}, "an id in every row; got none in .*a.parquet, row group 0, row 0"),
        (
            {"more": [[1, 2], [1]]},
            r"lists of one length in column more: \d, as in .*a.parquet.*; got \d in .*row \d",
        ),
        ({"more": [[1, 2], None]}, "a value of more in every row; got none in .*row 1"),
        ({"more": [[1, 2], [1, None]]}, "a value of more in every row; got none in .*row 1"),
        ({"more": [1, None]}, "a value of more in every row; got none in .*row 1"),
    ],
)
def test_rows_that_cannot_be(tmp_path, spoilt, match):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"item": [0, 1], "more": [[1, 2], [1, 2]]} | spoilt), path)
    columns = StreamColumns(query=None, text=None, features=("more",))
    stream = open_shards(path, columns, batch_size=2)
    with pytest.raises(InputError, match=match):
        stream.batch(0)

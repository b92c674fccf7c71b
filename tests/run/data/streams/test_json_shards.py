"""JSON lines become Parquet once: shard by shard, in blocks, each fault named by its line."""

import gzip
import json
import os
import re

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet
from shards import TOTAL, ids_of, open_shards, pairs, write_shards

from negcache.errors import InputError
from negcache.run.data.streams import StreamColumns, json_shards


def write_lines(path, rows, zipped=False):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if zipped else text)


def rows(first, size):
    columns = pairs(first, size)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "lines"
    home.mkdir()
    write_lines(home / "a.jsonl", rows(0, 40))
    write_lines(home / "b.jsonl.gz", rows(40, 40), zipped=True)
    write_lines(home / "c.json", rows(80, TOTAL - 80))
    return home


@pytest.fixture
def kept(cache_of_this_test):
    return cache_of_this_test / "streams"


def refused(match, source, *settings):
    with pytest.raises(InputError, match=match) as told:
        open_shards(source, *settings)
    return str(told.value)


def test_lines_are_read_as_parquet_is(folder, tmp_path, kept):
    stream = open_shards(folder, batch_size=TOTAL)
    batch = stream.batch(0)
    assert sorted(batch.item_ids.tolist()) == list(range(TOTAL))
    assert batch.texts == [f"text {i}" for i in batch.item_ids.tolist()]
    assert batch.queries == [f"query {i}" for i in batch.item_ids.tolist()]
    one = tmp_path / "one"
    write_shards(one)
    table = pa.concat_tables([parquet.read_table(path) for path in sorted(one.iterdir())])
    write_lines(folder / "a.jsonl", table.to_pylist())
    assert ids_of(open_shards(folder / "a.jsonl"), 0, 1)
    assert {path.name.partition("-")[0] for path in kept.iterdir()} == {"a", "b", "c"}


def test_a_file_is_converted_once_and_again_when_it_changed(folder, kept):
    def dates():
        return {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}

    open_shards(folder)
    before = dates()
    assert open_shards(folder).fingerprint == open_shards(f"{folder}/*").fingerprint
    assert dates() == before
    os.utime(folder / "a.jsonl", (1, 1))
    open_shards(folder)
    assert len(dates()) == 4
    assert before.items() <= dates().items()
    open_shards(folder, StreamColumns(query=None))
    assert len(dates()) == 7


def test_what_is_interrupted_goes_on_at_the_first_file_that_is_missing(folder, kept, monkeypatch):
    convert, done = json_shards._convert, []

    def stopping(file, *settings):
        if "c.json" in file.name and not done[2:]:
            done.append("stopped")
            raise KeyboardInterrupt
        done.append(file.name)
        convert(file, *settings)

    monkeypatch.setattr(json_shards, "_convert", stopping)
    with pytest.raises(KeyboardInterrupt):
        open_shards(folder)
    assert len(list(kept.iterdir())) == 2
    open_shards(folder)
    assert [name.rpartition("/")[2] for name in done] == [
        "a.jsonl",
        "b.jsonl.gz",
        "stopped",
        "c.json",
    ]


def test_what_a_killed_process_left_is_removed(folder, kept):
    open_shards(folder)
    (home,) = kept.glob("a-*.parquet")
    home.rename(kept / f".{home.name}.part-0123abcd-999999999")
    open_shards(folder)
    assert len(list(kept.iterdir())) == 3
    assert home.exists()


def test_memory_holds_blocks_not_files(tmp_path, monkeypatch):
    path = tmp_path / "large.jsonl"
    write_lines(path, [row | {"text": str(i) * 300} for i, row in enumerate(rows(0, 3000))])
    monkeypatch.setattr(json_shards, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(json_shards, "GROUP_ROWS", 100)
    before, held, batches = pa.total_allocated_bytes(), [], json_shards._batches

    def watched(*settings):
        for batch in batches(*settings):
            held.append(pa.total_allocated_bytes() - before)
            yield batch

    monkeypatch.setattr(json_shards, "_batches", watched)
    stream = open_shards(path)
    assert len(held) > 20
    assert max(held) < path.stat().st_size / 5
    assert len(stream.table) == 3000
    assert 50 <= stream.table.rows.max() <= 100


def test_lines_at_any_address(folder):
    system = fsspec.filesystem("memory")
    for path in folder.iterdir():
        system.pipe(f"/lines/{path.name}", path.read_bytes())
    assert ids_of(open_shards("memory://lines"), 0, 9) == ids_of(open_shards(folder), 0, 9)


def test_strings_and_features_are_what_the_first_lines_say(tmp_path):
    path = tmp_path / "a.jsonl"
    told = [{"_id": "2020-01-01", "price": 1, "tokens": [1, 2]} for _ in range(4)]
    told[1]["price"] = 2.5
    write_lines(path, told)
    columns = StreamColumns(query=None, item="_id", text=None, features=("price", "tokens"))
    batch = open_shards(path, columns, batch_size=4).batch(0)
    assert batch.identities.ids.keys == ["2020-01-01"] * 4
    assert sorted(batch.features["price"].tolist()) == [1.0, 1.0, 1.0, 2.5]
    assert batch.features["tokens"].tolist() == [[1, 2]] * 4


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"item": 7, "text": "cut', r"malformed JSON \(Unterminated string"),
        (b'{"text": "x", "query": "y"}', "without item"),
        (b'{"item": null, "text": "x"}', "without item"),
        (b'{"item": "d7", "text": "x"}', "whose item is no int64"),
        (b'{"item": 7.5, "text": "x"}', "whose item is no int64"),
        (b'{"item": 7.0, "text": "x"}', "whose item is no int64"),
        (b'{"item": 18446744073709551616, "text": "x"}', "whose item is no int64"),
        (b'{"item": 7, "text": 8}', "whose text is no string"),
        (b'[7, "x"]', "not an object"),
    ],
)
@pytest.mark.parametrize("number", [3, 300])
def test_a_bad_line_is_named_by_file_and_number(tmp_path, kept, line, what, number):
    path = tmp_path / "a.jsonl.gz"
    lines = [json.dumps(row).encode() for row in rows(0, 400)]
    lines[number - 1] = line
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    like = re.escape('one JSON object a line, like {"item": "d1", "query": "...", "text": "..."}')
    refused(f"{like}; got .*a.jsonl.gz, line {number}: {what}", path)
    assert not kept.exists() or not list(kept.iterdir())


@pytest.mark.parametrize("number", [3, 300])
def test_a_line_that_is_no_utf8(tmp_path, number):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row).encode() for row in rows(0, 400)]
    lines[number - 1] = b'{"item": 7, "text": "caf\xe9"}'
    path.write_bytes(b"\n".join(lines))
    refused(f"UTF-8 text; got .*a.jsonl, line {number}", path)


def test_other_faults_of_files(folder, monkeypatch):
    path = folder / "b.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    refused("a readable JSON lines file; got .*b.jsonl.gz", folder)
    path.write_bytes(b"")
    refused("rows in .*b.jsonl.gz; got none", folder)
    path.write_bytes(gzip.compress(b'{"item": 1, "query": "caf\xe9"}'))
    refused("UTF-8 text; got .*b.jsonl.gz, line 1", folder)
    write_lines(path, [{"item": 1, "question": "x", "text": "y"}], zipped=True)
    refused(r"columns item, query, text in .*b.jsonl.gz; got item, q.* \(no query\)", folder)
    write_lines(path, [{"item": str(i), "query": "x", "text": "y"} for i in range(9)], zipped=True)
    refused(r"item of type int64 in .*a.jsonl \(converted: .*got item of type string in", folder)
    monkeypatch.setattr(json_shards, "BLOCK_BYTES", 100)
    write_lines(path, [{"item": 1, "query": "x", "text": "y" * 90}], zipped=True)
    refused("b.jsonl.gz, line 1: longer than 16 MB; cut it", folder)
    refused("a readable JSON lines file; got .*gone.jsonl", folder / "gone.jsonl")


def test_a_full_disk(folder, monkeypatch):
    def full(*_settings, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_batch", full)
    refused("room for .*a.jsonl as Parquet in .*streams; got .*No space left on device", folder)

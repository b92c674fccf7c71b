"""A stream gives its batches by number, and of the files reads no more than their windows."""

import pickle
import random

import fsspec
import pyarrow as pa
import pytest
import torch
from fsspec.implementations.memory import MemoryFile
from pyarrow import parquet
from shards import TOTAL, assert_places_are_right, ids_of, open_shards, pairs, process, write_shards

from negcache.run.data.streams import ITEMS, StreamColumns, check_alike_ids

PER_EPOCH = TOTAL // 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def straight(folder):
    """The ids of two epochs, read from the first batch on."""
    return ids_of(open_shards(folder), 0, 2 * PER_EPOCH)


def test_an_epoch_has_each_row_once(folder):
    stream = open_shards(folder, batch_size=1)
    batches = [stream.batch(number) for number in range(TOTAL)]
    assert sorted(int(batch.item_ids) for batch in batches) == list(range(TOTAL))
    assert all(batch.texts == [f"text {int(batch.item_ids)}"] for batch in batches)
    assert all(batch.queries == [f"query {int(batch.item_ids)}"] for batch in batches)
    assert stream.order.place(TOTAL) == (1, 0)
    for batch in batches[::9]:
        assert_places_are_right(stream, batch)


def test_a_run_that_goes_on_from_any_batch_reads_what_it_would_have(folder, straight):
    for start in range(2 * PER_EPOCH):
        stream = open_shards(folder)
        assert ids_of(stream, start, start + 1) == straight[start : start + 1]
        windows = {piece.window for piece in stream.order.batch(start)}
        assert stream.reads.groups == sum(len(window.groups) for window in windows)
    assert ids_of(open_shards(folder), 7, 2 * PER_EPOCH) == straight[7:]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_processes_share_the_batches_of_one(folder, straight, size):
    streams = [open_shards(folder, mesh=process(rank, size)) for rank in range(size)]
    for number, whole in enumerate(straight[:PER_EPOCH]):
        assert [
            one for stream in streams for one in stream.batch(number).item_ids.tolist()
        ] == whole


def test_an_epoch_reads_each_row_group_once_and_holds_one_window(folder):
    stream = open_shards(folder)
    ids_of(stream, 0, PER_EPOCH)
    assert stream.reads.groups == len(stream.table.rows)
    assert stream.reads.most <= largest_windows(stream, 1)
    assert stream.reads.held == stream._reader._held.bytes > 0
    stream.close()
    assert stream.reads.held == 0


def test_reading_ahead_holds_two_windows_and_changes_nothing(folder, straight):
    stream = open_shards(folder, read_ahead=True)
    assert ids_of(stream, 0, 2 * PER_EPOCH) == straight
    assert largest_windows(stream, 1) < stream.reads.most <= largest_windows(stream, 2)
    assert stream.reads.groups == 2 * len(stream.table.rows)
    assert ids_of(stream, 3, 5) == straight[3:5]  # back again: what was read ahead is dropped
    stream.close()
    assert stream.reads.held == 0
    assert ids_of(stream, 0, 1) == straight[:1]
    stream.close()


def largest_windows(stream, count):
    """Bytes of the largest windows that there could be."""
    sizes = sorted(stream.table.read(group).nbytes for group in range(len(stream.table.rows)))
    return sum(sizes[-3 * count :])


@pytest.fixture
def counted(monkeypatch):
    """Bytes read of files in memory."""
    seen = [0]
    read = MemoryFile.read

    def counting(self, *args):
        data = read(self, *args)
        seen[0] += len(data)
        return data

    monkeypatch.setattr(MemoryFile, "read", counting)
    return seen


def test_of_the_files_only_footers_and_the_window_are_read(counted):
    noise = random.Random(0)
    system = fsspec.filesystem("memory")
    for number in range(8):
        rows = {"item": range(64), "text": [noise.randbytes(8000).hex() for _ in range(64)]}
        rows = {name: list(values) for name, values in rows.items()}
        with system.open(f"/large/{number}.parquet", "wb") as sink:
            parquet.write_table(pa.table(rows), sink, row_group_size=16, compression="none")
    columns = StreamColumns(query=None)
    stream = open_shards("memory://large", columns, batch_size=4, window=2)
    whole = system.du("/large")
    footers = counted[0]
    assert 0 < footers < whole / 4
    stream.batch(37)
    assert stream.reads.groups == 2
    assert counted[0] - footers < 1.1 * (whole * 2 / 32 + footers / 4)
    counted[0] = 0
    fresh = open_shards("memory://large", StreamColumns(None, text=None), batch_size=4, window=2)
    fresh.batch(37)
    assert counted[0] < footers * 10 / 8 + 20_000, "columns that nobody asked for are read"


def test_files_at_any_address(folder, straight):
    system = fsspec.filesystem("memory")
    for path in folder.iterdir():
        system.pipe(f"/copied/{path.name}", path.read_bytes())
    names = sorted(path.name for path in folder.iterdir())
    for source in (
        f"{folder}/*.parquet",
        f"file://{folder}",
        "memory://copied",
        "memory://copied/part-*.parquet",
        [folder / name for name in names],
        [f"memory://copied/{name}" for name in names],
    ):
        stream = open_shards(source)
        assert ids_of(stream, 0, 4) == straight[:4]
        assert stream.fingerprint == open_shards(folder).fingerprint
    assert open_shards(folder / names[0]).fingerprint != open_shards(folder).fingerprint


def test_hidden_files_and_others_of_a_folder_are_passed_over(tmp_path):
    folder = write_shards(tmp_path / "shards")
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_old.parquet", "readme.txt"):
        (folder / name).write_text("x")
    (folder / "deeper").mkdir()
    (folder / "part-0.parquet").rename(folder / "deeper" / "part-0.parquet")
    assert len(open_shards(folder).table) == TOTAL


def test_a_stream_goes_to_another_process_as_it_was_opened(folder, straight):
    stream = open_shards(folder, read_ahead=True)
    stream.batch(0)
    copy = pickle.loads(pickle.dumps(stream))
    assert copy.reads.groups == 0
    assert ids_of(copy, 4, 6) == straight[4:6]
    stream.close()
    copy.close()


def test_items_have_titles_and_ids_as_the_user_wrote_them(tmp_path):
    def rows(first, size):
        ids = range(first, first + size)
        return {
            "_id": [f"d{i}" for i in ids],
            "title": [f"title {i}" if i % 2 else None for i in ids],
            "text": [f"text {i}" if i % 3 else None for i in ids],
        }

    stream = open_shards(write_shards(tmp_path / "items", rows=rows), ITEMS)
    batch = stream.batch(0)
    assert batch.queries is None
    assert batch.item_ids.min() >= 0
    for key, text in zip(batch.identities.ids.keys, batch.texts, strict=True):
        number = int(key[1:])
        title, body = f"title {number}" * (number % 2), f"text {number}" * (number % 3 > 0)
        assert text == f"{title} {body}".strip()
    assert len(set(batch.item_ids.tolist())) == 10


def test_columns_of_other_names_and_features(tmp_path):
    def rows(first, size):
        ids = range(first, first + size)
        return {
            "asin": pa.array([str(i) for i in ids]).dictionary_encode(),
            "tokens": [[i, i + 1, i + 2] for i in ids],
            "fixed": pa.array([[i / 2, 0.5] for i in ids], pa.list_(pa.float32(), 2)),
            "price": [i / 4 for i in ids],
            "new": [i % 2 == 0 for i in ids],
        }

    names = ("tokens", "fixed", "price", "new")
    columns = StreamColumns(query=None, item="asin", text=None, features=names)
    batch = open_shards(write_shards(tmp_path / "shards", rows=rows), columns).batch(0)
    ids = torch.tensor([int(key) for key in batch.identities.ids.keys])
    assert batch.texts is None
    assert torch.equal(batch.features["tokens"], ids[:, None] + torch.arange(3))
    halves = torch.stack([ids / 2, torch.full([10], 0.5)], dim=1)
    assert torch.equal(batch.features["fixed"], halves)
    assert torch.equal(batch.features["price"], ids.double() / 4)
    assert torch.equal(batch.features["new"], ids % 2 == 0)


def test_two_streams_of_a_corpus_have_ids_alike(folder, tmp_path):
    def items(first, size):
        told = pairs(first, size)
        return {"_id": [str(i) for i in told["item"]], "text": told["text"]}

    streams = open_shards(folder), open_shards(write_shards(tmp_path / "i", rows=items), ITEMS)
    check_alike_ids(*streams[:1], *streams[:1])
    with pytest.raises(ValueError, match=r"item of .*part-0.parquet is int64; got string in col"):
        check_alike_ids(*streams)

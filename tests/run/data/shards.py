"""Small shards of pairs, and the processes that would share them."""

import pyarrow as pa
from pyarrow import parquet

from negcache.distributed import Mesh
from negcache.run.data.streams import PAIRS, Stream

FILES, ROWS, GROUP = 5, 23, 7  # files of 23 rows or more, in row groups of 7
TOTAL = sum(ROWS + number for number in range(FILES))


def pairs(first, rows):
    """Rows whose texts say their ids."""
    ids = range(first, first + rows)
    return {
        "query": [f"query {i}" for i in ids],
        "item": list(ids),
        "text": [f"text {i}" for i in ids],
    }


def write_shards(folder, *, group=GROUP, rows=pairs):
    """Parquet files of unequal length, their rows numbered through; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number in range(FILES):
        size = ROWS + number
        path = folder / f"part-{number}.parquet"
        parquet.write_table(
            pa.table(rows(first, size)), path, row_group_size=group, write_page_checksum=True
        )
        first += size
    return folder


def open_shards(source, columns=PAIRS, *, batch_size=10, seed=5, window=3, **options):
    """A stream that reads nothing ahead unless told to."""
    options = {"read_ahead": False} | options
    return Stream.open(source, columns, batch_size=batch_size, seed=seed, window=window, **options)


def process(rank, size):
    """Where a process stands that was not launched."""
    mesh = Mesh()
    mesh.rank, mesh.size = rank, size
    return mesh


def ids_of(stream, start, stop):
    """Item ids of some batches, a list each."""
    return [stream.batch(number).item_ids.tolist() for number in range(start, stop)]


def assert_places_are_right(stream, batch):
    """Each row stands where the batch says."""
    keys, places = batch.item_ids.tolist(), batch.identities.places.tolist()
    read = [stream.table.read(group)["item"][row].as_py() for group, row in places]
    assert read == keys


def damage(path, group, column="text"):
    """Overwrite a page of a row group; the footer stays as it was."""
    told = parquet.read_metadata(path).row_group(group)
    names = [told.column(number).path_in_schema for number in range(told.num_columns)]
    start = told.column(names.index(column)).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)

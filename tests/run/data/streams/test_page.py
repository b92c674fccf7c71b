"""docs/data.md: the snippet of streams runs as it stands, and its error is the one that is told."""

import re
from itertools import islice
from pathlib import Path

import pytest
from pyarrow import parquet
from shards import open_shards, pairs, write_shards
from tokenizers import Tokenizer, models

from negcache.errors import InputError
from negcache.run.data.streams import prepared

PAGE = (Path(__file__).parents[4] / "docs" / "data.md").read_text()
STREAMS = PAGE[PAGE.index("## Streams") :]
SNIPPET, OF_KNOWN, *_ = re.findall(r"```python\n(.*?)```", STREAMS, re.DOTALL)


def test_the_snippet_runs(tmp_path, monkeypatch):
    def items(first, size):
        told = pairs(first, size)
        return {"_id": told["item"], "text": told["text"]}

    write_shards(tmp_path / "shards" / "pairs")
    write_shards(tmp_path / "shards" / "items", rows=items)
    monkeypatch.chdir(tmp_path)
    small = re.sub(r"batch_size=\d+", "batch_size=20", SNIPPET)
    endless = prepared._Numbers.__iter__
    monkeypatch.setattr(prepared._Numbers, "__iter__", lambda self: islice(endless(self), 5))
    names = {"tokenizer": Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))}
    exec(small, names)
    assert names["batch"].number == 1004
    assert names["items"].batch(0).queries is None
    exec(re.sub(r"batch_size=\d+", "batch_size=20", OF_KNOWN), names)
    assert len(names["known"]) == len(names["known"].items) == names["pairs"].order.num_rows


def test_the_error_is_one_of_ours(tmp_path):
    path = write_shards(tmp_path / "shards") / "part-2.parquet"
    stream = open_shards(path.parent)
    group = stream.table.groups.tolist().index([2, 1])
    parquet.write_table(parquet.read_table(path), path, row_group_size=6)
    with pytest.raises(InputError) as told:
        stream.table.read(group)
    shown = " ".join(re.search(r"```\n(Expected .*?)```", STREAMS, re.DOTALL)[1].split())
    assert str(told.value).replace(f"{tmp_path}/", "") == shown

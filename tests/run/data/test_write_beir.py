"""Tasks written as BEIR folders, and read again."""

import pyarrow as pa
import pytest

from negcache.errors import InputError
from negcache.run.data import write_beir
from negcache.run.data.beir import beir_tables
from negcache.run.data.wordnet import wordnet_tables


@pytest.mark.slow
def test_a_task_written_and_read_again(tmp_path):
    folder = write_beir("wordnet-sense", tmp_path / "sense")
    first = (folder / "queries.jsonl").read_text("utf-8").splitlines()[0]
    assert first.startswith('{"_id": "n00002684-0", "text": "object : it was full of rackets')
    assert (folder / "qrels" / "dev.tsv").read_text().startswith("query-id\tcorpus-id\tscore\n")
    read, built_in = beir_tables(folder), wordnet_tables("wordnet-sense")
    for stream in ("corpus", "queries"):
        ours, theirs = (pa.Table.from_batches(getattr(t, stream)()) for t in (read, built_in))
        assert ours.equals(theirs)
    assert read.splits() == built_in.splits()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"a new or empty folder; got .* which holds files"):
        write_beir("wordnet-sense", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_name(tmp_path):
    with pytest.raises(InputError, match="wordnet-sense, wordnet-reverse; got 'golf'"):
        write_beir("golf", tmp_path / "golf")

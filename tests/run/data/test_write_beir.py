"""Tasks written as BEIR folders, and read again."""

from pathlib import Path

import pyarrow as pa
import pytest

from negcache.errors import InputError
from negcache.run.data import write_beir
from negcache.run.data.beir import beir_tables
from negcache.run.data.cities import cities_tables
from negcache.run.data.debian import debian_tables
from negcache.run.data.go import go_tables
from negcache.run.data.pairs import rows_of_pairs
from negcache.run.data.registry import Package, check_sha256, fetch_package
from negcache.run.data.tables import stable_split
from negcache.run.data.wordnet import wordnet_tables


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
    with pytest.raises(
        InputError, match="wordnet-sense, wordnet-reverse, go, debian, cities; got 'golf'"
    ):
        write_beir("golf", tmp_path / "golf")


def test_pairs_become_distinct_items_and_queries():
    pairs = [("a", "x", "one"), ("b", "x", "two"), ("c", "y", "one"), ("a", "x", "one")]
    rows = rows_of_pairs(pairs)
    assert rows.corpus == [("a", "one"), ("b", "two")]
    assert [text for _, text in rows.queries] == ["x", "y"]
    x, y = (key for key, _ in rows.queries)
    judged = {pair for pairs in rows.judged.values() for pair in pairs}
    assert judged == {(x, "a"), (x, "b"), (y, "a")}
    assert {(x, "a"), (x, "b")} <= set(rows.judged[stable_split("x")])


def test_a_version_that_is_not_the_pinned_one():
    with pytest.raises(
        InputError, match=r"go 1 with sha256 aa; got sha256 bb.*allow_other_version"
    ):
        check_sha256("go 1", "aa", "bb")


def test_no_debian_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="the tools apt-get and dpkg-deb"):
        fetch_package(Package("nothing", "1", "0" * 64), tmp_path)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.mark.slow
@pytest.mark.network
def test_go_is_what_it_was(downloads):
    tables = go_tables(downloads)
    sizes = {split: judged.num_rows for split, judged in tables.splits().items()}
    assert sum(len(batch) for batch in tables.corpus()) == 22_047
    assert sum(len(batch) for batch in tables.queries()) == 68_945
    assert sizes == {"train": 56_054, "dev": 7_241, "test": 6_970}


@pytest.mark.slow
@pytest.mark.network
def test_debian_is_what_it_was(downloads):
    tables = debian_tables(downloads)
    sizes = {split: judged.num_rows for split, judged in tables.splits().items()}
    assert sum(len(batch) for batch in tables.corpus()) == 59_842
    assert sum(len(batch) for batch in tables.queries()) == 59_412
    assert sum(sizes.values()) == 60_593


@pytest.mark.slow
@pytest.mark.network
def test_cities_are_what_they_were(downloads):
    tables = cities_tables(downloads)
    sizes = {split: judged.num_rows for split, judged in tables.splits().items()}
    assert sum(len(batch) for batch in tables.corpus()) == 132_683
    assert sum(len(batch) for batch in tables.queries()) == 558_976
    assert sizes == {"train": 472_604, "dev": 58_617, "test": 59_234}

"""Data sets of text pairs: distinct texts, pinned versions; the fetched are what they were."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.datasets.__main__ import app
from benchmarks.datasets.cities import cities_tables
from benchmarks.datasets.debian import debian_tables
from benchmarks.datasets.fetching import DEBIAN, Package, check_sha256, fetch
from benchmarks.datasets.go import go_tables
from benchmarks.datasets.pairs import rows_of_pairs
from negcache.errors import InputError
from negcache.run.data.tables import stable_split


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
        check_sha256("go 1", "aa", "bb", DEBIAN.moved)


def test_no_debian_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="the tools apt-get and dpkg-deb"):
        fetch(Package(DEBIAN, "nothing", "1", "0" * 64), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["go", "debian", "debian-deps", "gene-terms", "cities", "brown", "city-classes", "passages"],
)
def test_the_command_refuses_a_full_folder_before_it_fetches(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mine.txt").write_text("keep")
    done = CliRunner().invoke(app, [name, str(tmp_path), "--cache-dir", str(tmp_path / "cache")])
    assert done.exit_code == 2
    assert done.stderr.startswith("Expected a new or empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


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

"""Packages and what they depend on: stanzas are read as Debian means them, no query is an item."""

import pytest
import torch

from benchmarks.datasets.dependencies import Stanza, deps_tables, needs_of, pairs_of, stanzas
from benchmarks.datasets.pairs import rows_of_pairs
from negcache.run.data import open_task
from negcache.run.data.tables import from_rows
from negcache.run.data.write import write_tables

INDEX = """Package: editor
Source: editing
Version: 2
Pre-Depends: dpkg (>= 1.15.6~)
Depends: libc6 (>= 2.34), python3:any, libgui-4.0++ | mail-transport-agent,
 fonts [amd64], libc6 (<< 3)
Recommends: editor-data (= 2), editor
Suggests: spell | spell-ng
Breaks: fonts (<< 1)
Description: edits text
Description-md5: 00

Package: editor-data
Version: 2
Depends: fonts
Description: data: of the editor
 A long one,
 Depends: on nothing

Package: editor
Version: 1
Depends: old
Description: edited text

Package: libc6
Version: 3
Description: C library

Package: fonts
Version: 1
Description: letters

Package: untold
Version: 1
"""


@pytest.fixture
def packages():
    return stanzas(INDEX)


def test_stanzas(packages):
    assert list(packages) == ["editor", "editor-data", "libc6", "fonts"]
    assert packages["editor"].text == "editor: edits text"
    assert packages["editor-data"] == Stanza("editor-data: data: of the editor", ["fonts"])


def test_relations_name_each_package_once_and_never_itself(packages):
    assert packages["editor"].needs == [
        "dpkg", "libc6", "python3", "libgui-4.0++", "mail-transport-agent", "fonts",
        "editor-data", "spell", "spell-ng",
    ]  # fmt: skip
    assert needs_of({"Package": "a", "Depends": "", "Enhances": "b"}) == []


def test_who_is_asked_for_does_not_ask(packages):
    assert list(pairs_of(packages)) == [
        (name, "editor: edits text", packages[name].text)
        for name in ("libc6", "fonts", "editor-data")
    ]


def test_a_query_that_is_trained_on_knows_all_its_items(tmp_path):
    libraries = {f"lib{i}": Stanza(f"lib{i}: library {i}", []) for i in range(40)}
    tools = {
        f"tool{i}": Stanza(f"tool{i}: tool {i}", [f"lib{i + j}" for j in range(1 + i % 7)])
        for i in range(30)
    }
    rows = rows_of_pairs(pairs_of(libraries | tools))
    folder = write_tables(tmp_path / "deps", lambda: from_rows("deps", (), lambda: rows))
    task = open_task(folder, vocab_size=300)
    pairs, known = task.learnable("train"), task.known_positives("train")
    asking = pairs.queries.unique()
    assert len(asking) > 15
    for row, text in zip(asking.tolist(), task.query_text.texts(asking), strict=True):
        needed = set(tools[text.split(":")[0]].needs)
        held = known.items[known.offsets[row] : known.offsets[row + 1]]
        for items in (pairs.items[pairs.queries == row], torch.tensor(held.tolist())):
            assert set(task.corpus_text.ids(items)) == needed


@pytest.mark.slow
@pytest.mark.network
def test_dependencies_are_what_they_were(tmp_path):
    tables = deps_tables(tmp_path)
    items = {row["text"] for batch in tables.corpus() for row in batch.to_pylist()}
    queries = {row["text"] for batch in tables.queries() for row in batch.to_pylist()}
    sizes = {split: judged.num_rows for split, judged in tables.splits().items()}
    assert (len(items), len(queries), len(items & queries)) == (20_203, 18_094, 0)
    assert sizes == {"train": 63_906, "dev": 7_915, "test": 7_844}

"""The encoded corpus stays on the disk: written in parts, read in chunks, gone on with."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from negcache.run.cli import item_index
from negcache.run.cli.item_index import ItemIndex
from negcache.run.cli.runs import trained
from negcache.run.cli.searching import open_searcher

CHUNK, DIM, ITEMS = 16, 8, 240
PARTS = -(-ITEMS // (2 * CHUNK))
TEXT = "word1 word2"


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation makes.

    A view is none, and neither are the bytes of a file that is mapped.
    """

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else (found,):
            made = isinstance(one, torch.Tensor) and not func.is_view
            if made and one.dtype != torch.uint8:
                self.numbers = max(self.numbers, one.numel())
        return found


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    from typer.testing import CliRunner

    from negcache.run.cli.app import app

    folder = tmp_path_factory.mktemp("search") / "run"
    done = CliRunner().invoke(app, ["train", str(small / "small.toml"), "--out", str(folder)])
    assert done.exit_code == 0
    return folder


def found(run, out):
    """The best items, and how large a tensor was to find them."""
    with open_searcher(trained(run, locked=False), out) as searcher, Largest() as largest:
        return searcher.find(TEXT, 30), largest.numbers


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(item_index, "CHUNK", CHUNK)
    monkeypatch.setattr(item_index, "PART_BYTES", 2 * CHUNK * DIM * 4)


def test_a_search_reads_chunks_and_finds_what_it_found(run, tmp_path, few_at_once):
    best, numbers = found(run, tmp_path)
    retriever = trained(run, locked=False).retriever
    with torch.no_grad():
        scores = retriever.score(
            retriever.encode_text(TEXT),
            torch.cat([*retriever.encode_some(range(len(retriever.items)))]),
        )
    values, ids = scores.sort(dim=1, descending=True, stable=True)
    assert len(ids[0]) == ITEMS
    assert [name for _, name, _ in best] == retriever.task.corpus_text.ids(ids[0, :30])
    torch.testing.assert_close(torch.tensor([each for each, _, _ in best]), values[0, :30])
    assert numbers == 30 + CHUNK, "the best so far, and the scores of a chunk"
    assert len([*tmp_path.glob("*/*")]) == PARTS


def test_what_is_interrupted_or_damaged_goes_on(run, tmp_path, few_at_once, monkeypatch):
    write, written = ItemIndex.write, []

    def stopping(self, part, rows):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(part.start)
        write(self, part, rows)

    with monkeypatch.context() as patched:
        patched.setattr(ItemIndex, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            found(run, tmp_path)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert len(made) == len(written) == 3
    (damaged, *intact) = made
    damaged.write_bytes(damaged.read_bytes()[:-5])
    best, _ = found(run, tmp_path)
    assert best == found(run, tmp_path / "another")[0]
    assert len([*tmp_path.glob("step-*/*")]) == PARTS
    assert [path.stat().st_mtime_ns for path in intact] == [made[path] for path in intact]


def test_an_index_is_of_what_it_was_encoded_by(tmp_path):
    index = ItemIndex(tmp_path, 5, 2, {"checkpoint": "a"})
    assert index.missing() == [range(5)]
    index.write(range(5), torch.arange(10.0).view(5, 2))
    assert index.missing() == []
    for other in (
        ItemIndex(tmp_path, 5, 2, {"checkpoint": "b"}),
        ItemIndex(tmp_path, 6, 2, {"checkpoint": "a"}),
        ItemIndex(tmp_path, 5, 3, {"checkpoint": "a"}),
    ):
        assert other.missing() == other.parts
    ((first, rows),) = index.chunks(torch.device("cpu"))
    assert first == 0
    assert torch.equal(rows, torch.arange(10.0).view(5, 2))

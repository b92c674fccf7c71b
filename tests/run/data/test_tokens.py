"""Token files and ragged rows against Python lists."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from negcache.errors import InputError
from negcache.interfaces import Corpus
from negcache.run.data import TokenFile, write_tokens
from negcache.towers import Bags

TEXTS = [[5, 6, 7], [], [8], [9, 65535], []]


def as_lists(bags: Bags) -> list[list[int]]:
    ends = [*bags.starts.tolist()[1:], len(bags.tokens)]
    return [bags.tokens[a:b].tolist() for a, b in zip(bags.starts.tolist(), ends, strict=True)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    blocks=st.lists(st.lists(st.lists(st.integers(0, 299), max_size=5), max_size=4), max_size=4),
    data=st.data(),
)
def test_any_rows_come_back_as_they_were_written(tmp_path, blocks, data):
    texts = [text for block in blocks for text in block]
    file = TokenFile.open(write_tokens(tmp_path / "any", blocks, vocab_size=300))
    rows = st.lists(st.integers(0, len(texts) - 1)) if texts else st.just([])
    ids = data.draw(rows)
    got = file[torch.tensor(ids, dtype=torch.int64)]
    assert len(file) == len(texts)
    assert (as_lists(got) if ids else []) == [texts[i] for i in ids]
    assert got.tokens.dtype == got.starts.dtype == torch.int64


@pytest.mark.parametrize(
    ("vocab_size", "kind"), [(256, "u1"), (257, "u2"), (65536, "u2"), (65537, "u4")]
)
def test_the_smallest_type_that_fits_is_on_disk(tmp_path, vocab_size, kind):
    path = write_tokens(tmp_path / "tokens", [[[vocab_size - 1]]], vocab_size=vocab_size)
    assert np.load(path / "tokens.npy", mmap_mode="r").dtype == np.dtype(kind)
    assert TokenFile.open(path)[torch.tensor([0])].tokens.tolist() == [vocab_size - 1]


def test_a_token_beyond_the_vocabulary_leaves_no_file(tmp_path):
    with pytest.raises(OverflowError):
        write_tokens(tmp_path / "tokens", [[[1]], [[300]]], vocab_size=256)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writer_leaves_the_old_file(tmp_path):
    def blocks():
        yield [[1, 2]]
        raise KeyboardInterrupt

    path = write_tokens(tmp_path / "tokens", [TEXTS])
    with pytest.raises(KeyboardInterrupt):
        write_tokens(path, blocks())
    assert as_lists(TokenFile.open(path)[torch.arange(5)]) == TEXTS
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens"]


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there(tmp_path, row):
    file = TokenFile.open(write_tokens(tmp_path / "tokens", [TEXTS]))
    with pytest.raises(InputError, match=f"Expected rows from 0 to 4; got row {row}"):
        file[torch.tensor([0, row])]


def test_it_is_mapped_and_satisfies_the_corpus_protocol(tmp_path):
    file = TokenFile.open(write_tokens(tmp_path / "tokens", [TEXTS]))
    assert isinstance(file.tokens, np.memmap)
    assert isinstance(file, Corpus)
    assert file.lengths(torch.tensor([3, 1, 0])).tolist() == [2, 0, 3]
    bags = file[torch.tensor([1, 0, 4])]
    assert torch.nn.EmbeddingBag(8, 4)(*bags)[::2].eq(0).all()  # empty bags embed to zero

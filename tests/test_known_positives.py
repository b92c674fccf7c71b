"""Known positives against sets."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from negcache import KnownPositives
from negcache.errors import InputError
from negcache.run.data import Judgements

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), max_size=30)


def table(pairs) -> KnownPositives:
    queries, items = (torch.tensor([pair[i] for pair in pairs], dtype=torch.int64) for i in (0, 1))
    return KnownPositives.from_pairs(queries, items, num_queries=7)


@given(pairs=PAIRS, batch=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), min_size=1))
def test_exclusion_is_the_known_positives_and_the_target(pairs, batch):
    query_ids, targets = torch.tensor(batch).T
    excluded = table(pairs).exclusion(query_ids, targets)
    for row, (query, target) in enumerate(batch):
        expected = sorted({item for q, item in pairs if q == query} | {target})
        got = excluded.ids[excluded.offsets[row] : excluded.offsets[row + 1]]
        assert got.tolist() == expected


@given(pairs=PAIRS)
def test_rows_are_sorted_and_distinct(pairs):
    known = table(pairs)
    assert len(known) == 7
    for query in range(7):
        row = known.items[known.offsets[query] : known.offsets[query + 1]].tolist()
        assert row == sorted({item for q, item in pairs if q == query})


def test_saved_and_mapped_again(tmp_path):
    known = table([(0, 7), (6, 3), (0, 2)])
    again = KnownPositives.open(known.save(tmp_path / "known"))
    assert isinstance(again.items, np.memmap)
    assert np.array_equal(again.offsets, known.offsets)
    assert again.exclusion(torch.tensor([0]), torch.tensor([9])).ids.tolist() == [2, 7, 9]


def test_a_save_replaces_the_one_before_or_leaves_it_whole(tmp_path):
    path = tmp_path / "known"
    table([(0, 7)]).save(path)
    table([(0, 3)]).save(path)
    assert KnownPositives.open(path).items.tolist() == [3]
    half = KnownPositives(np.array([0, 1]), np.array([lambda: 0]))  # the second file cannot be
    with pytest.raises((AttributeError, pickle.PicklingError)):
        half.save(path)
    assert KnownPositives.open(path).items.tolist() == [3]
    assert [left.name for left in tmp_path.iterdir()] == ["known"]


def test_a_query_that_the_table_does_not_have():
    with pytest.raises(InputError, match="rows from 0 to 6; got row 7"):
        table([(0, 1)]).exclusion(torch.tensor([7]), torch.tensor([1]))


def test_pairs_that_do_not_match():
    with pytest.raises(InputError, match="2 query ids and 1 item ids"):
        KnownPositives.from_pairs(torch.tensor([0, 1]), torch.tensor([0]))
    with pytest.raises(InputError, match="query ids below 1; got query id 4"):
        KnownPositives.from_pairs(torch.tensor([4]), torch.tensor([0]), num_queries=1)


def test_judgements_keep_graded_pairs_apart_from_positives():
    judged = Judgements(torch.tensor([0, 0, 1]), torch.tensor([4, 5, 6]), torch.tensor([2, 0, 1]))
    assert judged.positives().items.tolist() == [4, 6]
    with pytest.raises(InputError, match="1, 1 and 0"):
        Judgements(torch.tensor([0]), torch.tensor([0]), torch.zeros(0, dtype=torch.int64))


def test_the_light_half_needs_neither_pyarrow_nor_tokenizers():
    code = """
import sys
sys.modules.update(pyarrow=None, tokenizers=None, rich=None, platformdirs=None)
from negcache import KnownPositives
from negcache.towers import Bags
from negcache.run.data import Judgements, TokenFile
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_narrow_ids_do_not_overflow():
    known = KnownPositives.from_pairs(
        torch.tensor([99_999], dtype=torch.int32), torch.tensor([99_999], dtype=torch.int32)
    )
    assert known.items.tolist() == [99_999]
    assert known.offsets[-2:].tolist() == [0, 1]

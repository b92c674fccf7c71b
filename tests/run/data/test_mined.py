"""Mined negatives: files as miners write them, against tables written by hand."""

import gzip
import json

import pyarrow as pa
import pytest
import torch
from folders import write_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.data import open_task
from negcache.run.data.mined import read_mined_negatives

CORPUS = [{"_id": f"d{i}", "text": f"text {i}"} for i in range(6)]
QUERIES = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(4)]
QRELS = {"train": [("q0", "d0", 1), ("q1", "d1", 1), ("q1", "d2", 1), ("q2", "d3", 0)]}


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGCACHE_CACHE", str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="without judgements"):
        return open_task(write_folder(tmp_path / "t", CORPUS, QUERIES, QRELS), vocab_size=300)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [("q1", "d1", ["d5", "d3"]), ("q0", "d0", ["d4"]), ("q1", "d2", ["d0"])]
TABLE = [[4, -1, -1], [5, 3, 0], [-1, -1, -1], [-1, -1, -1]]


def as_jsonl(folder):
    named = [{"query-id": q, "positive-id": p, "negative-ids": n, "score": 3} for q, p, n in ROWS]
    return lines(folder / "m.jsonl", named)


def as_zipped_jsonl(folder):
    path = folder / "m.jsonl.gz"
    path.write_bytes(gzip.compress(as_jsonl(folder).read_bytes()))
    return path


def as_triplets(folder):
    named = [
        {"query-id": q, "positive-id": p, "negative-id": one} for q, p, many in ROWS for one in many
    ]
    return lines(folder / "m.jsonl", named)


def as_parquet(folder):
    columns = list(map(list, zip(*ROWS, strict=True)))
    parquet.write_table(
        pa.table(columns, ["query-id", "positive-id", "negatives"]), folder / "m.parquet"
    )
    return folder / "m.parquet"


def as_tsv(folder):
    rows = [("query-id", "positive-id", "negative-1", "negative-2")]
    rows += [(q, p, *n, *[""] * (2 - len(n))) for q, p, n in ROWS]
    (folder / "m.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return folder / "m.tsv"


@pytest.mark.parametrize("write", [as_jsonl, as_zipped_jsonl, as_triplets, as_parquet, as_tsv])
def test_every_form_gives_the_same_table(task, tmp_path, write):
    table, faults = read_mined_negatives(write(tmp_path), task, strict=True)
    assert table.tolist() == TABLE
    assert not faults
    assert read_mined_negatives(write(tmp_path), task, most=1)[0].tolist() == [[4], [5], [-1], [-1]]


def test_untidiness_is_counted_and_refused_when_strict(task, tmp_path):
    rows = [
        {"query-id": "q0", "positive-id": "d9", "negative-ids": ["d0", "d5", "nosuch", "d5"]},
        {"query-id": "nobody", "positive-id": "d1", "negative-ids": ["d2"]},
        {"query-id": "q2", "positive-id": "d3", "negative-ids": ["d3", "d4"]},
    ]
    path = lines(tmp_path / "m.jsonl", rows)
    counts = {
        "rows of an unknown query (left out)": 1,
        "rows with an unknown positive (kept)": 1,
        "negatives that are unknown items (left out)": 1,
        "negatives that are positives of their query (left out)": 2,  # d0 by qrels, d3 by the row
        "negatives named before for their query (left out)": 1,
    }
    with pytest.warns(UserWarning, match=r"m.jsonl: 1 rows of an unknown query"):
        table, faults = read_mined_negatives(path, task)
    assert faults == counts
    assert table.tolist() == [[5], [-1], [4], [-1]]
    with pytest.raises(InputError, match=r"faults, m.jsonl.*2 negatives that are positives"):
        read_mined_negatives(path, task, strict=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(3, 5), max_size=4)), min_size=1
    ),
    most=st.integers(1, 3),
)
@pytest.mark.filterwarnings("ignore:m.jsonl")
def test_any_rows_against_a_slow_reader(task, tmp_path, rows, most):
    named = [{"query-id": f"q{q}", "negative-ids": [f"d{i}" for i in n]} for q, n in rows]
    expected = [[] for _ in range(4)]
    for query, items in rows:
        expected[query] += [i for i in dict.fromkeys(items) if i not in expected[query]]
    path = lines(tmp_path / "m.jsonl", named)
    if not any(expected):
        with pytest.raises(InputError):
            read_mined_negatives(path, task, most=most)
        return
    table, _ = read_mined_negatives(path, task, most=most)
    assert [[i for i in row if i >= 0] for row in table.tolist()] == [e[:most] for e in expected]
    assert table.dtype == torch.int64


BAD = {
    "m.csv": ("x", "ends in .jsonl"),
    "m.tsv": ("q0\td0\td4\n", "query-id.*q0, d0, d4"),
    "a.tsv": ("query-id\tnegative-id\nq0\td4\td5\n", "a.tsv: .*Expected 2 columns, got 3"),
    "b.tsv": ("query-id\tnegative-id\nq0\t\xff\n", "b.tsv, line 2"),
    "m.jsonl": ('{"query-id": "q0", "negative-id": "d4"}\n{"query', "m.jsonl: .*JSON"),
    "a.jsonl": ("", "a.jsonl: .*[Ee]mpty"),
    "b.jsonl": ('{"query-id": "q0", "negative-id": {"a": 1}}\n', "b.jsonl: "),
    "c.jsonl": ('{"query-id": "q0", "negatives": ["d0"]}\n', "none that can be used in"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:c.jsonl")
def test_bad_files(task, tmp_path, name):
    text, told = BAD[name]
    (tmp_path / name).write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=told):
        read_mined_negatives(tmp_path / name, task)


def test_no_file_and_no_negatives_asked_for(task, tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_mined_negatives(tmp_path / "none.jsonl", task)
    with pytest.raises(InputError, match="at least 1 negative"):
        read_mined_negatives(as_jsonl(tmp_path), task, most=0)

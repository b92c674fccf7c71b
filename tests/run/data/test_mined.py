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
    "a.tsv": ("query-id\tnegative-id\nq0\td4\td5\n", "2 cells a line.*a.tsv, line 2: 3 cells"),
    "b.tsv": ("query-id\tnegative-id\nq0\t\xff\n", "b.tsv, line 2"),
    "m.jsonl": (
        '{"query-id": "q0", "negative-id": "d4"}\n{"query',
        "m.jsonl, line 2: malformed JSON",
    ),
    "a.jsonl": ("", "rows in .*a.jsonl; got none"),
    "b.jsonl": (
        '{"query-id": "q0", "negative-id": {"a": 1}}\n',
        r"b.jsonl, line 1: \{.a.: 1\}, which is no id",
    ),
    "c.jsonl": ('{"query-id": "q0", "negatives": ["d0"]}\n', "none that can be used in"),
    "d.jsonl": ('{"query-id": "q0", "negative-scores": [1]}\n', "negative-id.*d.jsonl; got no neg"),
    "e.jsonl": ('{"query-id": "q0", "negatives": [1.5]}\n', "e.jsonl, line 1: 1.5, which is no id"),
    "f.jsonl": ('{"query-id": true, "negatives": ["d4"]}\n', "line 1: true, which is no id"),
    "g.jsonl": ('{"negatives": ["d4"]}\n', "line 1: null, which is no id"),
    "h.jsonl": (f'{{"query-id": "q0", "negatives": {"[" * 20_000}', "h.jsonl, line 1: malformed"),
    "i.jsonl": (f'{{"query-id": "q0", "z": {"[" * 900}{"]" * 900}}}\n', "i.jsonl"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:c.jsonl")
def test_bad_files(task, tmp_path, name):
    text, told = BAD[name]
    (tmp_path / name).write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=told):
        read_mined_negatives(tmp_path / name, task)


def test_no_file_and_no_negatives_asked_for(task, tmp_path):
    with pytest.raises(InputError, match=r"the file .*none\.jsonl; got No such file"):
        read_mined_negatives(tmp_path / "none.jsonl", task)
    with pytest.raises(InputError, match="at least 1 negative"):
        read_mined_negatives(as_jsonl(tmp_path), task, most=0)


def test_ids_stay_what_they_are(tmp_path, monkeypatch):
    """An id like a date or a number, or one in quotes, is a string, in every form."""
    monkeypatch.setenv("NEGCACHE_CACHE", str(tmp_path / "cache"))
    names = ["2020-01-01", "007", "1e3", '"d"', "true", "12:30:00"]
    corpus = [{"_id": name, "text": f"text {i}"} for i, name in enumerate(names)]
    qrels = {"train": [("2021-01-01", names[0], 1)]}
    queries = [{"_id": "2021-01-01", "text": "query"}]
    task = open_task(write_folder(tmp_path / "t", corpus, queries, qrels), vocab_size=300)
    row = {"query-id": "2021-01-01", "negative-ids": names[1:], "negative-score": [0.5]}
    table = [["query-id", *(f"negative-{i}" for i in range(1, 6)), "negative-score"]]
    table.append([row["query-id"], *names[1:], "0.5"])
    (tmp_path / "m.tsv").write_text("".join("\t".join(cells) + "\n" for cells in table))
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "m.parquet")
    for path in (lines(tmp_path / "m.jsonl", [row]), tmp_path / "m.tsv", tmp_path / "m.parquet"):
        found, faults = read_mined_negatives(path, task, strict=True)
        assert found.tolist() == [[1, 2, 3, 4, 5]]
        assert not faults


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.date32(), pa.list_(pa.list_(pa.string())), pa.bool_()]
)
def test_columns_that_hold_no_ids(task, tmp_path, kind):
    columns = {"query-id": ["q0"], "negatives": pa.nulls(1, kind)}
    parquet.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(InputError, match=r"in column negatives of .*m\.parquet; got"):
        read_mined_negatives(tmp_path / "m.parquet", task)

"""Every fault of a folder has its own clear error, raised before anything is kept."""

import gzip
import json

import pyarrow as pa
import pytest
import torch
from folders import CORPUS, QRELS, QUERIES, write_folder
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.data import open_task


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "small")


def refused(folder, match, **options):
    with pytest.raises(InputError, match=match) as told:
        open_task(folder, **options)
    return str(told.value)


def replace_line(path, number, line: bytes):
    lines = path.read_bytes().splitlines()
    lines[number - 1] = line
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_no_such_task(tmp_path):
    refused(
        tmp_path / "nowhere", r"wordnet-sense, wordnet-reverse\) or a BEIR folder; got '.*nowhere'"
    )
    assert "python -m benchmarks.datasets NAME OUT" in refused("go", "got 'go', which is neither")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_missing_files_are_named_beside_what_is_there(folder, name):
    (folder / name).unlink()
    told = refused(folder, f"Expected .*{name}.* in .*small; got .* there")
    assert "qrels/test.tsv" in told


def test_two_files_for_one_table(folder):
    (folder / "corpus.jsonl.gz").write_bytes(b"")
    refused(folder, "one corpus file in .*; got corpus.jsonl and corpus.jsonl.gz")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"_id": "d2", "text": "cut of', r"line 2: malformed JSON \(Unterminated string"),
        (b'{"title": "no id", "text": "x"}', "line 2: without a string _id"),
        (b'{"_id": 7, "text": "x"}', r'line 2: without a string _id: \{"_id": 7'),
        (b'{"_id": "d2", "text": 7}', "line 2: with a text that is no string"),
        (b'["d2", "x"]', "line 2: not an object"),
        (b'{"_id": "d2", "text": "caf\xe9"}', "UTF-8 text; got .*corpus.jsonl, line 2"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(folder, line, what):
    replace_line(folder / "corpus.jsonl", 2, line)
    assert "corpus.jsonl, line 2" in refused(folder, what)


def test_a_bad_line_in_a_zipped_file_far_down(tmp_path):
    folder = write_folder(tmp_path / "zipped", zipped=True)
    rows = [json.dumps({"_id": f"d{i}", "text": "x" * 200}).encode() for i in range(1, 120_000)]
    rows[110_000] = b"{"
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(b"\n".join(rows), 1))
    refused(folder, "corpus.jsonl.gz, line 110001: malformed JSON")


def test_a_zipped_file_that_ends_early(tmp_path):
    folder = write_folder(tmp_path / "zipped", zipped=True)
    path = folder / "queries.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    refused(folder, "a readable text file; got .*queries.jsonl.gz: .* ended before")


def test_repeated_ids(tmp_path):
    refused(
        write_folder(tmp_path / "twice", corpus=[*CORPUS, CORPUS[0]]),
        r"distinct ids in the corpus; got 1 ids that occur more than once \(d1\)",
    )
    refused(
        write_folder(tmp_path / "queries", queries=[*QUERIES, *QUERIES]),
        r"distinct ids in the queries; got 3 ids .* \(q1, q2, q3\)",
    )


@pytest.mark.parametrize("size", [0, 1])
def test_a_corpus_too_small_to_choose_from(tmp_path, size):
    folder = write_folder(tmp_path / "tiny", corpus=CORPUS[:size])
    refused(folder, f"a corpus of at least 2 items; got {size} in .*corpus.jsonl")


def test_no_training_positives(tmp_path):
    none = write_folder(tmp_path / "none", qrels={"train": []})
    refused(none, "training positives .* of none; got none; 3 queries without judgements")
    zero = write_folder(tmp_path / "zero", qrels={"train": [("q1", "d1", 0)]})
    refused(zero, "got none; 1 judgements with a score of 0 or less")


def test_a_judgement_file_of_no_bytes(folder):
    (folder / "qrels" / "train.tsv").write_text("")
    refused(folder, r"columns query-id, corpus-id, score in .*train.tsv; got none")


def test_a_judgement_file_without_header(folder):
    (folder / "qrels" / "train.tsv").write_text("q1\td1\t1\n")
    refused(folder, r"columns query-id, corpus-id, score in .*train.tsv; got q1, d1, 1 ")


@pytest.mark.parametrize("score", ["high", "0.5", "", "nan"])
def test_a_score_that_is_no_whole_number(folder, score):
    replace_line(folder / "qrels" / "train.tsv", 3, f"q2\td2\t{score}".encode())
    refused(folder, rf"whole numbers from .* score column of .*train.tsv; got '{score}' in line 3")


def test_a_judgement_line_of_the_wrong_width(folder):
    replace_line(folder / "qrels" / "train.tsv", 3, b"q2 d2 1")
    refused(folder, r"3 cells a line, as in the header; got .*train.tsv, line 3: 1 cells")


def test_a_judgement_line_that_is_no_utf8(folder):
    replace_line(folder / "qrels" / "train.tsv", 4, b"q2\td\xe9\t1")
    refused(folder, "UTF-8 text; got .*train.tsv, line 4")


def test_a_parquet_file_without_text_or_ids(folder):
    (folder / "corpus.jsonl").unlink()
    path = folder / "corpus.parquet"
    parquet.write_table(pa.table({"_id": ["d1", "d2"], "body": ["x", "y"]}), path)
    refused(folder, r"columns _id, text in .*corpus.parquet; got _id, body \(no text\)")
    parquet.write_table(pa.table({"_id": ["d1", None], "text": ["x", "y"]}), path)
    refused(folder, "an id in every row of column _id")
    path.write_bytes(b"no parquet at all")
    refused(folder, "a Parquet file; got .*corpus.parquet")


def test_settings_that_leave_no_tokens(folder):
    refused(folder, "got max_tokens=0", max_tokens=0)


FAULTS = (
    "faulty: 1 judgements of an unknown query (left out); "
    "1 judgements of an unknown item (left out); "
    "1 judgements with a score of 0 or less (kept, no positives); "
    "1 judgements of a pair judged before (left out); "
    "1 items without text (kept); 1 queries without text (kept); "
    "1 queries without judgements (kept)."
)


def faulty_folder(tmp_path):
    return write_folder(
        tmp_path / "faulty",
        corpus=[*CORPUS, {"_id": "d4", "title": None, "text": ""}],
        queries=[*QUERIES, {"_id": "q4", "text": ""}],
        qrels={
            "train": [*QRELS["train"], ("q9", "d1", 1), ("q1", "d9", 1), ("q1", "d2", 0)],
            "test": [("q3", "d3", 1), ("q3", "d3", 2)],
        },
    )


def test_faults_are_counted_in_one_warning_at_every_start(tmp_path):
    folder = faulty_folder(tmp_path)
    with pytest.warns(UserWarning) as first:
        task = open_task(folder)
    with pytest.warns(UserWarning) as again:
        open_task(folder)
    for told in (first, again):
        assert [str(warning.message) for warning in told] == [FAULTS]
    assert len(task.corpus) == len(task.queries) == 4
    assert task.splits["train"].grades.tolist() == [1, 0, 2, 1]
    assert task.splits["test"].grades.tolist() == [2]
    assert len(task.splits["train"].positives()) == 3


def test_strict_refuses_what_otherwise_warns(tmp_path, cache_of_this_test):
    folder = faulty_folder(tmp_path)
    refused(
        folder, "a task without faults, faulty; got 1 judgements of an unknown query", strict=True
    )
    assert list((cache_of_this_test / "tasks").iterdir()) == []
    with pytest.warns(UserWarning):
        open_task(folder)
    refused(folder, "a task without faults, faulty", strict=True)


def test_strict_takes_a_tidy_folder(folder):
    assert len(open_task(folder, strict=True).corpus) == 3


def test_a_split_or_batch_that_cannot_be(folder):
    task = open_task(folder)
    with pytest.raises(InputError, match="a split of small: train, test; got 'dev'"):
        task.known_positives("dev")
    with pytest.raises(InputError, match="from 1 to the 3 positive pairs of split train; got 4"):
        task.batches("train", 4, torch.Generator())

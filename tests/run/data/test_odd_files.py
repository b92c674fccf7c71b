"""What is no plain file, no text or no table is refused by name, by every reader alike."""

import gzip
import json
import os
import signal

import pyarrow as pa
import pytest
from folders import CORPUS, QRELS, write_folder, write_parquet_folder
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.data import open_interactions, open_task, read_xc
from negcache.run.data.ids import WHITE
from negcache.run.data.mined import read_mined_negatives
from negcache.run.data.streams import Stream

pytestmark = pytest.mark.filterwarnings("ignore:small")


@pytest.fixture(autouse=True)
def _nobody_waits():
    """A reader that opens a FIFO would wait for ever."""

    def ring(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "small")


def refused(match, read, *what, **how):
    with pytest.raises(InputError, match=match) as told:
        read(*what, **how)
    return str(told.value)


PLACES = ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"]
ODD = {
    "folder": (lambda path: path.mkdir(), "a folder"),
    "fifo": (lambda path: os.mkfifo(path), "a FIFO"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "loop": (lambda path: path.symlink_to(path.name), "symbolic links"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_plain_file(folder, tmp_path, odd):
    make, told = ODD[odd]
    task = open_task(folder)
    for place in PLACES:
        path = folder / place
        kept = path.read_bytes()
        path.unlink()
        make(path)
        refused(f"{place}.*{told}", open_task, folder)
        path.rmdir() if odd == "folder" else path.unlink()
        path.write_bytes(kept)
    for name in ("mined.jsonl", "mined.tsv", "mined.parquet", "log.parquet", "train.txt"):
        make(tmp_path / name)
    for name in ("mined.jsonl", "mined.tsv", "mined.parquet"):
        refused(f"{name}.*{told}", read_mined_negatives, tmp_path / name, task)
    refused(f"train.txt.*{told}", read_xc, tmp_path / "train.txt")
    refused("log.parquet", open_interactions, tmp_path / "log.parquet")
    make(tmp_path / "pairs.jsonl")
    found = "files .* none" if odd == "folder" else f"pairs.jsonl.*{told}"
    refused(found, Stream.open, tmp_path / "pairs.jsonl", batch_size=1, seed=0)


def test_a_link_to_a_file_is_that_file(folder, tmp_path):
    for place in PLACES:
        (folder / place).rename(tmp_path / place.replace("/", "-"))
        (folder / place).symlink_to(tmp_path / place.replace("/", "-"))
    assert len(open_task(folder).corpus) == 3


def test_what_macos_leaves_is_passed_over(folder):
    (folder / "qrels" / "._train.tsv").write_bytes(b"\0\5\x16\7")
    (folder / "qrels" / ".dev.tsv").write_bytes(b"")
    assert list(open_task(folder).splits) == ["train", "test"]


TRAIN = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\n"
BAD_QRELS = {
    "quotes": (TRAIN.replace("query-id", '"query-id"'), 'got "query-id", corpus-id'),
    "twice": (TRAIN.replace("corpus-id\tscore", "score\tscore\tcorpus-id"), "score more than once"),
    "latin": (TRAIN.encode("utf-16"), "train.tsv, line 1, which is not"),
    "spaces": (TRAIN.replace("\t2\n", "\t 2\n"), "' 2' in line 3"),
    "scripts": (TRAIN.replace("\t2\n", "\t\uff12\n"), "'\uff12' in line 3"),
    "underscore": (TRAIN.replace("\t2\n", "\t1_0\n"), "'1_0' in line 3"),
    "huge": (TRAIN.replace("\t2\n", "\t1e300\n"), "'1e300' in line 3"),
    "beyond": (TRAIN.replace("\t2\n", "\t9007199254740993\n"), "'9007199254740993' in line 3"),
    "blank": (TRAIN.replace("q2", "\n\nq2").replace("\t2\n", "\tx\n"), "'x' in line 5"),
    "return": (TRAIN.replace("1\nq2", "1\rq2"), "line 2: "),
}


@pytest.mark.parametrize("case", BAD_QRELS)
def test_judgements_as_text(folder, case):
    text, told = BAD_QRELS[case]
    text = text if isinstance(text, bytes) else text.encode()
    (folder / "qrels" / "train.tsv").write_bytes(text)
    refused(told, open_task, folder)


def test_ids_in_judgements_are_what_stands_between_tabs(folder):
    """No quote joins lines, no space is cut off: what is unknown is counted."""
    lines = ['"q1\td1\t1', 'q2\td2"\t1', "q2 \td3\t1", "q3\td3\t1.0"]
    (folder / "qrels" / "train.tsv").write_text("\n".join([TRAIN.split("\n")[0], *lines]))
    with pytest.warns(UserWarning, match=r"small: 2 judgements of an unknown query .*; 1 .*item"):
        task = open_task(folder)
    assert len(task.splits["train"]) == 1


SCORES = {
    "null": (pa.array([1, None]), "None in row 1"),
    "nan": (pa.array([1.0, float("nan")]), "nan in row 1"),
    "half": (pa.array([1.0, 0.5]), "0.5 in row 1"),
    "huge": (pa.array([1, 2**40]), "1099511627776 in row 1"),
    "wide": (pa.array([1, 2**64 - 1], pa.uint64()), "in row 1"),
    "truth": (pa.array([True, False]), "score column .*; got bool"),
    "lists": (pa.array([[1], [2]]), "score column .*; got list"),
    "words": (pa.array(["1", "two"]), "'two' in row 1"),
}


@pytest.mark.parametrize("case", SCORES)
def test_judgements_as_parquet(tmp_path, case):
    scores, told = SCORES[case]
    folder = write_parquet_folder(tmp_path / "small")
    table = pa.table([["q1", "q2"], ["d1", "d2"], scores], ["query-id", "corpus-id", "score"])
    parquet.write_table(table, folder / "qrels" / "train.parquet")
    refused(told, open_task, folder)


COLUMNS = {
    "floats": ({"_id": [1.0, 2.0], "text": ["a", "b"]}, "strings or integers in column _id"),
    "dates": ({"_id": pa.array([1, 2], pa.date32()), "text": ["a", "b"]}, "got date32"),
    "nested": ({"_id": [{"a": "x"}, {"a": "y"}], "text": ["a", "b"]}, "got struct"),
    "texts": ({"_id": ["a", "b"], "text": [["x"], ["y"]]}, "strings in column text .*; got list"),
    "numbers": ({"_id": ["a", "b"], "text": [1, 2]}, "strings in column text .*; got int64"),
    "bytes": ({"_id": ["a", "b"], "text": pa.array([b"\xff", b""])}, "text in column text"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_a_corpus_as_parquet(tmp_path, case):
    columns, told = COLUMNS[case]
    folder = write_parquet_folder(tmp_path / "small")
    parquet.write_table(pa.table(columns), folder / "corpus.parquet")
    refused(told, open_task, folder)


def test_parquet_that_is_no_utf8_or_names_a_column_twice(tmp_path):
    folder = write_parquet_folder(tmp_path / "small")
    bad = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    )
    parquet.write_table(pa.table([["a", "b"], bad], ["_id", "text"]), folder / "corpus.parquet")
    refused("corpus.parquet: .*UTF", open_task, folder)
    twice = pa.table([["a", "b"], ["a", "b"], ["x", "y"]], ["_id", "_id", "text"])
    parquet.write_table(twice, folder / "corpus.parquet")
    refused("_id more than once", open_task, folder)


LINES = {
    "twice": ('{"_id": "d1", "_id": "d2", "text": "x"}', "a name twice"),
    "two": ('{"_id": "d1", "text": "x"} {"_id": "d2", "text": "y"}', "Extra data"),
    "spread": ('{"_id": "d1",\n"text": "x"}', "line 1: malformed"),
    "half": ('{"_id": "d1", "text": "\\ud800"}', "surrogates not allowed"),
    "nan": ('{"_id": "d1", "text": "x", "n": NaN}', "NaN is no JSON"),
    "deep": ('{"_id": "d1", "text": "x", "n": ' + "[" * 20_000 + "]" * 20_000 + "}", "line 1: "),
    "long": ('{"_id": "d1", "text": "' + "x" * (1 << 24) + '"}', "line 1: longer than 16 MB"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_corpus_of_lines(folder, case):
    text, told = LINES[case]
    (folder / "corpus.jsonl").write_text(text + "\n" + json.dumps(CORPUS[1]) + "\n")
    refused(told, open_task, folder)


@pytest.mark.parametrize("bad", ["d 1", "d\t1", "d1\n", "d\u20281", "", "d\x001", "\x85d"])
def test_ids_that_no_run_file_can_hold(tmp_path, bad):
    corpus = [{"_id": bad, "text": "x"}, *CORPUS[1:]]
    folder = write_folder(tmp_path / "small", corpus, qrels={"train": [("q2", "d2", 1)]})
    refused("ids without white space", open_task, folder)


def test_white_space_is_what_python_says():
    letters = [chr(number) for number in range(0x11000) if not 0xD800 <= number < 0xE000]
    found = pa.compute.match_substring_regex(pa.array(letters), WHITE).to_pylist()
    assert found == [one.isspace() or one == "\0" for one in letters]


def cut(text):
    return gzip.compress(text)[:-5]


ZIPPED = {
    "cut": (cut, "ended before"),
    "damaged": (lambda text: gzip.compress(text)[:-8] + b"12345678", "CRC"),
    "rest": (lambda text: gzip.compress(text) + b"rubbish", "Not a gzipped file"),
    "none": (lambda text: text, "Not a gzipped file"),
}


@pytest.mark.parametrize("case", ZIPPED)
def test_bad_gzip(tmp_path, case):
    spoil, told = ZIPPED[case]
    folder = write_folder(tmp_path / "small")
    for place in PLACES:
        path = folder / place
        text = path.read_bytes()
        path.unlink()
        (folder / f"{place}.gz").write_bytes(spoil(text))
        refused(told, open_task, folder)
        (folder / f"{place}.gz").write_bytes(gzip.compress(text))
    assert len(open_task(folder).splits["train"]) == len(QRELS["train"])

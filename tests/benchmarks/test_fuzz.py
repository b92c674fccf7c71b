"""The readers against a strict reference: spoilt inputs by number, and what Hypothesis finds."""

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import FAULTS, Fuzzer, Target, judge
from benchmarks.fuzzing import mutations
from negcache.errors import InputError


@pytest.fixture(scope="module")
def fuzzer():
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEGCACHE_CACHE", f"{home}/cache")
        yield Fuzzer(Path(home), seed=2024)


def test_spoilt_inputs_are_refused_or_read_as_they_are(fuzzer):
    found = [fuzzer.try_out(number) for number in range(150)]
    assert [one for one in found if one.what in FAULTS] == []
    assert {one.target for one in found} == set(fuzzer.targets)
    assert min(sum(one.what == what for one in found) for what in ("refused", "accepted")) > 15


CELLS = st.text(st.sampled_from("ad1_ \t\r\"'\u2028\xa0\uff11.e-\x00\x1b"), max_size=4) | st.text(
    max_size=3
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | CELLS | st.sampled_from(["d1", "q1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELLS, inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    [
        "_id",
        "text",
        "title",
        "query-id",
        "positive-id",
        "negatives",
        "negative-score",
        "item",
        "query",
    ]
)
ROWS = st.lists(st.dictionaries(NAMES, JSON, max_size=4), max_size=3)


def check(fuzzer, name, text, tmp_path):
    """What is read of a text is what the reference reads, or it is refused."""
    path = tmp_path / {"xc": "train.txt", "streams": "a.jsonl"}.get(name, "mined.tsv")
    if name == "mined" and text[:1] == b"{":
        path = tmp_path / "mined.jsonl"
    path.write_bytes(text)
    what, told = judge(fuzzer.targets[name], path)
    assert what in ("refused", "accepted"), told


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=ROWS,
    table=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=3),
    seed=st.integers(0, 99),
)
def test_what_hypothesis_finds(fuzzer, tmp_path, rows, table, seed):
    rng = random.Random(seed)
    for name in ("mined", "streams"):
        check(fuzzer, name, mutations.as_lines(rows), tmp_path)
    lines = [["query-id", "positive-id", "negative-1"], *table]
    text = "\n".join("\t".join(cells) for cells in lines).encode("utf-8", "surrogatepass")
    check(fuzzer, "mined", text, tmp_path)
    check(fuzzer, "mined", mutations.spoil_bytes(text, rng), tmp_path)
    points = "\n".join(["3 9 9", *(" ".join(cells) for cells in table)])
    check(fuzzer, "xc", points.encode("utf-8", "surrogatepass"), tmp_path)


def reader(ours):
    return Target(lambda *_: None, ours, lambda _: 1)


def test_every_fault_is_seen():
    """A reader that lies, fails, or does not answer."""

    def refuse(_):
        raise InputError("a", "b", "c")

    def wait(_):
        while True:
            os.getpid()

    assert judge(reader(refuse), None)[0] == "refused"
    assert judge(reader(lambda _: 1), None)[0] == "accepted"
    assert judge(reader(lambda _: 2), None)[0] == "silent"
    assert judge(reader(lambda _: {}["x"]), None)[0] == "tracebacks"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.fuzz.PATIENCE", 0.1)
        assert judge(reader(wait), None)[0] == "hangs"

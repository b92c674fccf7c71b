"""What steers a terminal is shown as escapes, wherever it came from."""

import shutil
import warnings

import pytest

from benchmarks.soak import write_task
from negcache.errors import InputError, visible
from negcache.run.cli.app import _show_warning

HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\u2028"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202e\u2028"
STEERS = set("\x1b\x07\x9b\u202e\u2028")


@pytest.fixture
def tame(call):
    """Call the command line: what it prints must steer nothing."""

    def called(*words, code=0):
        done = call(*words)
        assert done.exit_code == code, (done.output, done.exception)
        assert not STEERS & set(done.stdout + done.stderr)
        return done.stdout + done.stderr

    return called


def test_texts_names_and_errors(tame, small, tmp_path):
    """A corpus, a query, a run folder and a split that would."""
    task = write_task(tmp_path / "task", 60)
    corpus = task / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace('"text": "', f'"text": "{HOSTILE[2:]} '))
    corpus.write_text(corpus.read_text().replace("\x07", r"\u0007\u001b"))
    run = tmp_path / f"run{HOSTILE}"
    assert SHOWN in tame(
        "train", small / "small.toml", "--set", f"data.source={task}", "--out", run
    )
    assert SHOWN in tame("evaluate", run)
    assert SHOWN in tame("search", run, f"word1 {HOSTILE}", "-k", "2")
    assert tame("search", run, "word1", "-k", "2").count(r"\x1b\x9b31m") == 2
    other = shutil.copytree(run, tmp_path / "other")
    assert SHOWN in tame("compare", run, other)
    assert SHOWN in tame("evaluate", run, "--split", HOSTILE, code=2)
    assert SHOWN in tame("train", small / "small.toml", "--set", f"a{HOSTILE}b=1", code=2)
    assert SHOWN in tame("train", tmp_path / HOSTILE, code=2)


def test_warnings_are_one_line(capsys):
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        warnings.simplefilter("always")
        warnings.warn(f"task{HOSTILE}\nWarning: forged", stacklevel=1)
    assert capsys.readouterr().err == f"Warning: task{SHOWN}\\nWarning: forged\n"


def test_letters_of_all_scripts_stay():
    kept = "schön, 東京　駅, नमस्ते, می‌خواهم, 👩‍👩‍👧, naïve  \\"
    assert visible(kept) == kept
    assert str(InputError("a", "b\nc\ud800", "d")).count(r"\n") == 1

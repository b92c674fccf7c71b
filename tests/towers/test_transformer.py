"""The transformer tower against sentence-transformers itself, with a real encoder."""

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer

import negcache as nc
from negcache.encoder import without_dropout
from negcache.errors import InputError
from negcache.towers.text_corpus import TextCorpus
from negcache.towers.transformer import TransformerTower

TEXTS = [
    "purr",
    "a dog barks at the moon all night long",
    "birds sing at dawn",
    "",
    "the court was wet after the rain, so that nobody could play tennis on it before noon",
]


def rows(tower, texts=TEXTS, **how):
    with torch.no_grad(), without_dropout(tower):
        return tower(tower.tokenize(texts, **how))


def encode(folder, texts=TEXTS, **how):
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(texts, convert_to_tensor=True, **how)


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def gradients(tower, texts=TEXTS):
    tower.zero_grad()
    tower(tower.tokenize(texts)).pow(3).sum().backward()
    return {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}


def train_once(tower):
    optimizer = torch.optim.SGD([p for p in tower.parameters() if p.requires_grad], lr=0.05)
    gradients(tower)
    optimizer.step()


def test_embeddings_are_those_of_sentence_transformers(tower, folder):
    assert tower.dim == 384
    assert tower.max_length == 256
    close(rows(tower), encode(folder))
    close(rows(tower, prompt="query: "), encode(folder, prompt="query: "))
    assert (rows(tower) - rows(tower, prompt="query: ")).abs().max() > 0.01


def test_padding_and_company_do_not_change_embeddings(tower):
    alone = torch.cat([rows(tower, [text]) for text in TEXTS])
    close(rows(tower), alone)
    with_gradient = tower(tower.tokenize(TEXTS)).detach()
    close(with_gradient, alone)


def test_many_texts_are_encoded_a_few_at_a_time_and_come_back_in_order(tower, monkeypatch):
    together, widths = rows(tower), []
    monkeypatch.setattr("negcache.towers.transformer.TEXTS_AT_ONCE", 2)
    embed = tower._embed
    monkeypatch.setattr(
        tower, "_embed", lambda f: widths.append(tuple(f["input_ids"].shape)) or embed(f)
    )
    close(rows(tower), together)
    assert [count for count, _ in widths] == [2, 2, 1]
    assert widths[-1][1] == 2  # the empty text: nothing but its two special tokens


def test_a_plain_encoder_with_pooling_named_is_the_same_model(plain, folder):
    tower = TransformerTower.load(plain, pooling="mean", normalize=True)
    close(rows(tower), encode(folder))
    raw = TransformerTower.load(plain, pooling="mean")
    close(nc.DotScore().embed(rows(raw)), encode(folder))
    assert (rows(raw).norm(dim=1) - 1).abs().min() > 0.01
    cls = TransformerTower.load(plain, pooling="cls", normalize=True)
    assert (rows(cls) - encode(folder)).abs().max() > 0.01


def test_normalisation_can_be_taken_away(folder):
    tower = TransformerTower.load(folder, normalize=False)
    assert (rows(tower).norm(dim=1) - 1).abs().min() > 0.01
    close(nc.DotScore().embed(rows(tower)), encode(folder))


@pytest.mark.parametrize("pooling", ["mean", None])
def test_a_trained_tower_comes_back_from_its_folder(folder, plain, tmp_path, pooling):
    home, out = (plain if pooling else folder), tmp_path / "trained"
    settings = {"pooling": pooling, "normalize": True, "max_length": 12}
    tower = TransformerTower.load(home, **settings, prompt="find: ")
    train_once(tower)
    tower.save(out)
    close(rows(tower), encode(out))  # the prompt and the cut are in the folder
    close(rows(tower), rows(TransformerTower.load(out, prompt="find: ")))
    close(rows(tower), nc.DotScore().embed(rows(tower)))
    assert (rows(tower) - encode(folder, prompt="find: ")).abs().max() > 1e-4
    assert [path.name for path in tmp_path.iterdir() if path.name != "plain"] == ["trained"]


def test_two_prompts_are_saved_under_their_names(tower, tmp_path):
    tower.save(tmp_path / "m", prompts={"query": "find: ", "document": "entry: "})
    model = SentenceTransformer(str(tmp_path / "m"), device="cpu", local_files_only=True)
    asked = model.encode_query(TEXTS, convert_to_tensor=True)
    close(rows(tower, prompt="find: "), asked)
    close(rows(tower, prompt="entry: "), model.encode_document(TEXTS, convert_to_tensor=True))
    close(rows(tower), model.encode(TEXTS, convert_to_tensor=True))


def test_an_existing_folder_is_never_written_to(tower, tmp_path):
    with pytest.raises(InputError, match="does not exist yet"):
        tower.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_save_leaves_nothing(tower, tmp_path, monkeypatch):
    def full(path, **_):
        raise OSError("No space left on device")

    monkeypatch.setattr(tower.model[1], "save", full)
    with pytest.raises(OSError, match="No space"):
        tower.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_only_the_top_layers_get_gradient(folder):
    tower = TransformerTower.load(folder, train_layers=2).eval()
    trained = set(gradients(tower))
    layers = {name.split("layer.")[1].split(".")[0] for name in trained}
    assert layers == {"4", "5"}
    assert all("layer." in name for name in trained)
    full = gradients(TransformerTower.load(folder).eval())
    for name, gradient in gradients(tower).items():
        close(gradient, full[name])
    before = {name: p.clone() for name, p in tower.named_parameters()}
    train_once(tower)
    moved = {name for name, p in tower.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained


def test_a_table_that_all_layers_read_is_frozen_with_them(tmp_path, plain):
    """MPNet keeps its relative positions beside the layers, not below them."""
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    MPNetModel(MPNetConfig(num_hidden_layers=3, vocab_size=30522, **sizes)).save_pretrained(
        tmp_path / "m"
    )
    AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "m")
    tower = TransformerTower.load(tmp_path / "m", pooling="mean", train_layers=1)
    assert "model.0.model.encoder.relative_attention_bias.weight" in dict(tower.named_parameters())
    assert all("encoder.layer.2" in name for name in gradients(tower))


def test_gradient_checkpointing_gives_the_same_gradient(folder):
    def dropped(tower):
        torch.manual_seed(3)
        return gradients(tower)

    plain = dropped(TransformerTower.load(folder))  # new towers are in training mode
    without = gradients(TransformerTower.load(folder).eval())
    assert any((gradient - without[name]).abs().max() > 1e-4 for name, gradient in plain.items())
    tower = TransformerTower.load(folder, gradient_checkpointing=True)
    layer, calls = tower.model[0].auto_model.encoder.layer[0].output.dense, []
    layer.register_forward_hook(lambda *_: calls.append(1))
    again = dropped(tower)
    assert len(calls) == 2  # computed anew in backward
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        close(gradient, again[name])


def test_half_precision(folder):
    tower = TransformerTower.load(folder, dtype=torch.bfloat16)
    assert next(tower.parameters()).dtype == torch.bfloat16
    close(nc.DotScore().embed(rows(tower)), encode(folder), 0.02)


BAD = {
    "no pooling": ({}, "pooling config.*plain without modules.json.*mean"),
    "unknown pooling": ({"pooling": "avg"}, "pooling='avg'.*mean"),
    "too long": ({"pooling": "mean", "max_length": 513}, "512 positions.*513"),
    "too short": ({"pooling": "mean", "max_length": 2}, "2 special tokens.*got 2"),
    "no layers": ({"pooling": "mean", "train_layers": 0}, "1 to the 6 layers.*got 0"),
    "more layers": ({"pooling": "mean", "train_layers": 7}, "1 to the 6 layers.*got 7"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_the_model_cannot_take(plain, case):
    settings, told = BAD[case]
    with pytest.raises(InputError, match=told):
        TransformerTower.load(plain, **settings)


def test_a_second_pooling_is_refused(folder):
    with pytest.raises(InputError, match=r"folder's own \(mean\).*pooling='cls'"):
        TransformerTower.load(folder, pooling="cls")
    assert TransformerTower.load(folder, pooling="mean").dim == 384


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(InputError, match="nowhere, which is no folder"):
        TransformerTower.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"modules.json or config.json"):
        TransformerTower.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="sentence-transformers can load"):
        TransformerTower.load(tmp_path, pooling="mean")


def test_roberta_counts_its_positions_from_the_padding_id(tmp_path, plain):
    """512 of the 514 rows of its table are for tokens: a known trap."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    config = RobertaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        vocab_size=30522,
        pad_token_id=1,
    )
    RobertaModel(config).save_pretrained(tmp_path / "r")
    AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "r")
    with pytest.raises(InputError, match=r"32 positions.*got 33"):
        TransformerTower.load(tmp_path / "r", pooling="cls", max_length=33)
    assert TransformerTower.load(tmp_path / "r", pooling="cls").max_length == 32
    rows(TransformerTower.load(tmp_path / "r", pooling="cls"), ["cats and dogs " * 30])


def test_it_trains_as_a_tower_of_the_loss(folder):
    """The whole path: tower, corpus, store, draws, recomputation of layers."""
    torch.manual_seed(0)
    tower = TransformerTower.load(folder, train_layers=1, gradient_checkpointing=True)
    words = [f"{a} {b}" for a in ("red", "blue", "old", "new") for b in ("car", "house", "tree")]
    items, asks = TextCorpus(words, tower), TextCorpus([f"a {w}" for w in words], tower)
    store = nc.DenseCache(len(items), tower.dim, refresh=0.2)
    sampler = nc.SharedDraws(nc.CachedSoftmax(store, 2))
    loss_fn = nc.SoftmaxLoss(tower, items, sampler, nc.DotScore(0.05))
    optimizer = torch.optim.Adam([p for p in tower.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(6):
        ids = torch.arange(0, 12, 2)
        loss = loss_fn(tower(asks[ids]), ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_fn.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

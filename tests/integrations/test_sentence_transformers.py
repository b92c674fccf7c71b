"""What becomes of a user's model, and which ones are refused."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_models import (
    VOCABULARY,
    asked_and_meant,
    bert_model,
    router_model,
    static_model,
    tokenizer_text,
    words_and_meanings,
)
from sentence_training import cached
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
)
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MatryoshkaLoss
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerControl,
    TrainerState,
)

import negcache as nc
from negcache.errors import InputError
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs

WORDS, MEANINGS = words_and_meanings()
PAIRS = corpus_pairs(asked_and_meant(), MEANINGS)


def trained(model, loss, dataset, out, **more):
    """Three steps of it."""
    args = SentenceTransformerTrainingArguments(
        f"{out}",
        per_device_train_batch_size=8,
        max_steps=3,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **more,
    )
    callbacks = [loss.callback()] if hasattr(loss, "callback") else []
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=dataset, loss=loss, callbacks=callbacks
    )
    trainer.train()
    return trainer


def sgd(model):
    return torch.optim.SGD(model.parameters())


def rows_of(loss):
    loss.softmax.fill_cache()
    return loss.softmax.store.rows(torch.arange(len(loss.pairs.corpus)))


@pytest.mark.parametrize("kind", ["static", "router", "bert"])
def test_items_are_stored_as_encode_document_gives_them(kind, tmp_path):
    build = {"static": static_model, "router": router_model}.get(kind)
    model = build() if build else bert_model(tmp_path / "bert", dropout=0.1)
    model.prompts |= {"query": "a word ", "document": "the meaning "}
    model.train()
    pairs = corpus_pairs(asked_and_meant(150), words_and_meanings(150)[1])
    loss = CorpusSoftmaxLoss(model, pairs, sampler=cached(pairs))
    stored, training = rows_of(loss), model.training
    options = {"convert_to_tensor": True, "normalize_embeddings": True}
    torch.testing.assert_close(stored, model.encode_document(pairs.corpus, **options))
    assert not torch.allclose(stored, model.encode_query(pairs.corpus, **options), atol=1e-3)
    assert training


def test_both_towers_of_a_router_train(tmp_path):
    model = router_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mapping = {"router_mapping": {"anchor": "query"}}
    trained(model, CorpusSoftmaxLoss(model, PAIRS), PAIRS.dataset, tmp_path, **mapping)
    assert len(before) == 2
    assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_prompts_of_the_trainer_and_of_the_loss_agree(tmp_path):
    model = static_model()
    model.prompts |= {"query": "a word ", "document": "the meaning "}
    for prompts in ("a word ", {"anchor": "a word ", "positive": "meaning "}):
        with pytest.raises(InputError, match="prompt for items, 'the meaning '"):
            trained(
                model, CorpusSoftmaxLoss(model, PAIRS), PAIRS.dataset, tmp_path, prompts=prompts
            )
    both = {"prompts": {"anchor": "a word ", "positive": "meaning "}}
    told = CorpusSoftmaxLoss(model, PAIRS, prompt="meaning ")
    trained(model, told, PAIRS.dataset, tmp_path, **both)
    with pytest.warns(UserWarning, match="the prompt 'a word ' for queries"):
        trained(model, CorpusSoftmaxLoss(model, PAIRS), PAIRS.dataset, tmp_path)


def test_mini_batches_give_the_same_gradient(tmp_path):
    gradients, most = [], []
    for size in (None, 5):
        model, seen = bert_model(tmp_path / "bert"), []
        loss = CorpusSoftmaxLoss(model, PAIRS, mini_batch_size=size)
        optimizer = sgd(model)
        loss.softmax.step_with(optimizer).fill_cache()
        labels = torch.tensor(PAIRS.dataset["label"])[:4]
        model.register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(len(given[0]["input_ids"]))
        )
        loss([model.preprocess(WORDS[:4])], labels).backward()
        gradients.append(model[0].auto_model.embeddings.word_embeddings.weight.grad)
        most.append(max(seen))
    torch.testing.assert_close(*gradients)
    assert most[0] > most[1] == 5


@pytest.mark.parametrize(
    ("sampler", "drawn"),
    [
        (lambda store: nc.CachedRest(store, 4), nc.CachedRest),
        (nc.SharedDraws(nc.Uniform(range(len(MEANINGS)), 2)), nc.SharedDraws),
        (nc.InBatch(PAIRS.log_popularity), nc.InBatch),
    ],
)
def test_a_sampler_of_ones_own(sampler, drawn, tmp_path):
    model = static_model()
    loss = CorpusSoftmaxLoss(model, PAIRS, sampler=sampler)
    assert isinstance(loss.softmax.sampler, drawn)
    assert loss.get_config_dict()["sampler"] == drawn.__name__
    trained(model, loss, PAIRS.dataset, tmp_path)


def test_the_loss_of_an_evaluation_is_that_of_the_whole_corpus():
    words, meanings = words_and_meanings(400)
    data, model = asked_and_meant(400), static_model()
    halves = DatasetDict(train=data.select(range(300)), dev=data.select(range(300, 400)))
    pairs = corpus_pairs(halves, meanings)
    loss, exact, found = CorpusSoftmaxLoss(model, pairs), [], []
    items = model.encode_document(meanings, convert_to_tensor=True, normalize_embeddings=True)
    for rows in torch.arange(100).view(10, 10).T.repeat(3, 1):
        labels = torch.tensor(pairs.dataset["dev"]["label"])[rows]
        queries = [words[300 + row] for row in rows]
        with torch.no_grad():
            found.append(float(loss([model.preprocess(queries)], labels)))
        asked = model.encode_query(queries, convert_to_tensor=True, normalize_embeddings=True)
        exact.append(float(torch.nn.functional.cross_entropy(20 * asked @ items.T, labels[:, 2])))
    assert np.mean(found) == pytest.approx(np.mean(exact), abs=0.03)


def test_the_model_stands_once_in_the_loss():
    model = static_model()
    loss = CorpusSoftmaxLoss(model, PAIRS)
    assert loss.model is model
    assert [value for _, value in loss.named_parameters() if value.requires_grad] == [
        model[0].embedding.weight
    ]
    assert sum(name.endswith("embedding.weight") for name in loss.state_dict()) == 1


def test_what_the_card_says():
    policy, drawn = nc.stores.Snapshot(5), cached(PAIRS)
    loss = CorpusSoftmaxLoss(static_model(), PAIRS, 10.0, policy, sampler=drawn)
    assert loss.get_config_dict() == {
        "scale": 10.0,
        "rho": "Snapshot",
        "mini_batch_size": None,
        "sampler": "SharedDraws",
        "num_items": len(MEANINGS),
        "gather_across_devices": True,
    }


def cross_encoder(folder):
    shape = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(vocab_size=VOCABULARY, num_hidden_layers=1, num_labels=1, **shape)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = Tokenizer.from_str(tokenizer_text())
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    return CrossEncoder(f"{folder}", device="cpu")


def test_models_that_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="CrossEncoder"):
        CorpusSoftmaxLoss(cross_encoder(tmp_path), PAIRS)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer_text()))
    with pytest.raises(InputError, match="SparseEncoder"):
        CorpusSoftmaxLoss(SparseEncoder(modules=[SparseStaticEmbedding(words)]), PAIRS)


def test_losses_around_it_are_refused_by_name(tmp_path):
    model = static_model()
    around = MatryoshkaLoss(model, CorpusSoftmaxLoss(model, PAIRS), [16, 8])
    with pytest.raises(InputError, match="MatryoshkaLoss"):
        trained(model, around, PAIRS.dataset, tmp_path)
    model = bert_model(tmp_path / "bert")
    around = AdaptiveLayerLoss(model, CorpusSoftmaxLoss(model, PAIRS))
    with pytest.raises(InputError, match="AdaptiveLayerLoss"):
        trained(model, around, PAIRS.dataset, tmp_path)


def test_labels_of_other_pairs_are_refused(tmp_path):
    model = static_model()
    loss = CorpusSoftmaxLoss(model, PAIRS)
    other = corpus_pairs(asked_and_meant().select(range(20)), MEANINGS)
    with pytest.raises(InputError, match="pairs that the loss was made with"):
        trained(model, loss, other.dataset, tmp_path)
    with pytest.raises(InputError, match="got none"):
        trained(model, loss, asked_and_meant(), tmp_path)


class OfTwo(SentenceTransformerTrainingArguments):
    """What a trainer has in each of two processes."""

    world_size = 2


def test_several_processes_are_refused_before_the_corpus_is_encoded(tmp_path):
    loss = CorpusSoftmaxLoss(static_model(), PAIRS, sampler=cached(PAIRS))
    begun = OfTwo(f"{tmp_path}", use_cpu=True), TrainerState(), TrainerControl()
    with pytest.raises(InputError, match="2 processes"):
        loss.callback().on_train_begin(*begun, optimizer=torch.optim.SGD(loss.model.parameters()))
    assert not loss.softmax.store.valid.any()


def test_batches_without_duplicates(tmp_path):
    model = static_model()
    twice = Dataset.from_dict({"anchor": WORDS * 2, "positive": MEANINGS * 2})
    pairs = corpus_pairs(twice, MEANINGS)
    loss, seen = CorpusSoftmaxLoss(model, pairs), []
    loss.register_forward_pre_hook(lambda _, given: seen.append(given[1][:, 1].tolist()))
    trained(model, loss, pairs.dataset, tmp_path, batch_sampler="no_duplicates")
    assert all(len(set(batch)) == 8 for batch in seen)

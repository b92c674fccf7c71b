"""What becomes of a user's data and model, and what is refused."""

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
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
)
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MatryoshkaLoss
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
from sentence_transformers.util import mine_hard_negatives
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


def columns(pairs, split=None):
    """Queries, positives and negatives as texts again."""
    dataset = pairs.dataset if split is None else pairs.dataset[split]
    query, label = dataset.column_names
    labels = np.array(dataset[label])
    texts = np.array([*pairs.corpus, None], dtype=object)
    assert label == "label"
    assert (labels[:, 0] == pairs.tag).all()
    return list(dataset[query]), labels[:, 1].tolist(), texts[labels[:, 2:]].tolist()


def test_ids_lead_back_to_the_texts():
    queries, rows, items = columns(PAIRS)
    assert queries == WORDS
    assert [text for (text,) in items] == MEANINGS
    assert rows == [WORDS.index(word) for word in WORDS]


def test_a_query_that_repeats_has_all_its_positives_everywhere():
    data = Dataset.from_dict({"q": ["a", "b", "a"], "p": ["x", "x", "y"]})
    pairs = corpus_pairs(data, ["x", "y", "z"])
    _, rows, _ = columns(pairs)
    assert rows == [0, 1, 0]
    known = pairs.known_positives
    assert known.items[known.offsets[0] : known.offsets[1]].tolist() == [0, 1]
    assert pairs.log_popularity.exp().tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_the_same_text_twice_is_one_item():
    data = Dataset.from_dict({"q": ["a", "b"], "p": [2, 1]})
    pairs = corpus_pairs(data, ["x", "y", "x"])
    assert pairs.corpus == ["x", "y"]
    assert columns(pairs)[2] == [["x"], ["y"]]


@pytest.mark.parametrize("of_ids", [True, False])
@pytest.mark.parametrize("kind", ["mapping", "dataset"])
def test_a_corpus_with_ids(kind, of_ids):
    ids = [f"d{number}" for number in range(len(MEANINGS))]
    corpus = dict(zip(ids, MEANINGS, strict=True))
    if kind == "dataset":
        corpus = Dataset.from_dict({"_id": ids, "text": MEANINGS})
    data = Dataset.from_dict({"query": WORDS, "item": ids if of_ids else MEANINGS})
    assert [text for (text,) in columns(corpus_pairs(data, corpus))[2]] == MEANINGS


def test_splits_share_their_queries_and_train_alone_makes_the_popularity():
    halves = DatasetDict(
        train=Dataset.from_dict({"q": ["a", "b"], "p": ["x", "x"]}),
        dev=Dataset.from_dict({"q": ["a", "c"], "p": ["y", "y"]}),
    )
    pairs = corpus_pairs(halves, ["x", "y"])
    assert columns(pairs, "dev")[1] == [0, 2]
    assert pairs.known_positives.exclusion(torch.tensor([0]), torch.tensor([0])).ids.tolist() == [
        0,
        1,
    ]
    assert pairs.log_popularity.exp().tolist() == [1, 0]


@pytest.mark.parametrize("output_format", ["triplet", "n-tuple"])
def test_mined_negatives_are_the_loss_own(output_format):
    mined = mine_hard_negatives(
        asked_and_meant(),
        static_model(),
        num_negatives=2,
        range_max=20,
        output_format=output_format,
        verbose=False,
    )
    pairs = corpus_pairs(mined, MEANINGS)
    names = [name for name in mined.column_names if name.startswith("negative")]
    wanted = list(zip(*(mined[name] for name in ("positive", *names)), strict=True))
    assert len(names) == {"triplet": 1, "n-tuple": 2}[output_format]
    assert [tuple(row) for row in columns(pairs)[2]] == wanted


def test_a_row_may_have_fewer_negatives(tmp_path):
    negatives = [
        [None, text][number % 2] for number, text in enumerate(MEANINGS[1:] + MEANINGS[:1])
    ]
    pairs = corpus_pairs(asked_and_meant().add_column("negative", negatives), MEANINGS)
    assert [row[1] for row in columns(pairs)[2]] == negatives
    model = static_model()
    assert (
        trained(model, CorpusSoftmaxLoss(model, pairs), pairs.dataset, tmp_path).state.global_step
        == 3
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"q": ["a", "b"], "p": ["x", "nowhere"]}, "'nowhere', which is none of its 2 items"),
        ({"q": ["a"], "p": ["x"], "n": ["elsewhere"]}, "column 'n'"),
        ({"q": ["a"], "p": [None]}, "a positive in every row"),
        ({"q": ["a"], "p": ["x"], "label": [1]}, "n-tuple"),
        ({"q": ["a"], "p": ["x"], "score": [0.5]}, "no others"),
        ({"q": ["a"]}, "query, positive, negatives"),
        ({"id": [7], "p": ["x"]}, "texts in the first column"),
        ({"q": [], "p": []}, "0 rows"),
    ],
)
def test_data_that_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        corpus_pairs(Dataset.from_dict(data), ["x", "y"])


def test_a_stream_and_a_corpus_without_texts_are_refused():
    with pytest.raises(InputError, match=r"datasets\.Dataset"):
        corpus_pairs(asked_and_meant().to_iterable_dataset(), MEANINGS)
    with pytest.raises(InputError, match='column "text"'):
        corpus_pairs(asked_and_meant(), Dataset.from_dict({"a": ["x"], "b": ["y"]}))
    with pytest.raises(InputError, match="corpus of texts"):
        corpus_pairs(asked_and_meant(), Dataset.from_dict({"text": [1, 2]}))


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
    stored, training = rows_of(CorpusSoftmaxLoss(model, pairs)), model.training
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
        loss.softmax.fill_cache()
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
    items = rows_of(loss)
    for rows in torch.arange(100).view(10, 10).T.repeat(3, 1):
        labels = torch.tensor(pairs.dataset["dev"]["label"])[rows]
        queries = [words[300 + row] for row in rows]
        with torch.no_grad():
            found.append(float(loss([model.preprocess(queries)], labels)))
        asked = model.encode_query(queries, convert_to_tensor=True, normalize_embeddings=True)
        exact.append(float(torch.nn.functional.cross_entropy(20 * asked @ items.T, labels[:, 2])))
    assert np.mean(found) == pytest.approx(np.mean(exact), abs=0.03)


def test_more_negatives_are_drawn_when_asked_for():
    model, labels = static_model(), torch.tensor(PAIRS.dataset["label"])[:4]
    counts = []
    for number in (1, 8):
        loss = CorpusSoftmaxLoss(model, PAIRS, num_negatives=number)
        loss([model.preprocess(WORDS[:4])], labels)
        counts.append(loss.softmax.report().encoded_grad)
    assert counts[0] < counts[1]


def test_the_model_stands_once_in_the_loss():
    model = static_model()
    loss = CorpusSoftmaxLoss(model, PAIRS)
    assert loss.model is model
    assert [value for _, value in loss.named_parameters() if value.requires_grad] == [
        model[0].embedding.weight
    ]
    assert sum(name.endswith("embedding.weight") for name in loss.state_dict()) == 1


def test_what_the_card_says():
    config = CorpusSoftmaxLoss(static_model(), PAIRS, 10.0, nc.stores.Snapshot(5)).get_config_dict()
    assert config == {
        "scale": 10.0,
        "rho": "Snapshot",
        "mini_batch_size": None,
        "sampler": "CorpusDraws",
        "num_negatives": 1,
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
    loss = CorpusSoftmaxLoss(static_model(), PAIRS)
    begun = OfTwo(f"{tmp_path}", use_cpu=True), TrainerState(), TrainerControl()
    with pytest.raises(InputError, match="2 processes"):
        loss.callback().on_train_begin(*begun, optimizer=torch.optim.SGD(loss.model.parameters()))
    assert not loss.softmax.store.valid.any()


def test_settings_that_are_refused():
    model = static_model()
    with pytest.raises(InputError, match="scale > 0"):
        CorpusSoftmaxLoss(model, PAIRS, scale=0.0)
    with pytest.raises(InputError, match="default sampler alone"):
        CorpusSoftmaxLoss(model, PAIRS, sampler=nc.InBatch(), num_negatives=2)


def test_batches_without_duplicates(tmp_path):
    model = static_model()
    twice = Dataset.from_dict({"anchor": WORDS * 2, "positive": MEANINGS * 2})
    pairs = corpus_pairs(twice, MEANINGS)
    loss, seen = CorpusSoftmaxLoss(model, pairs), []
    loss.register_forward_pre_hook(lambda _, given: seen.append(given[1][:, 1].tolist()))
    trained(model, loss, pairs.dataset, tmp_path, batch_sampler="no_duplicates")
    assert all(len(set(batch)) == 8 for batch in seen)

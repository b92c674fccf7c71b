"""A run of a ``SentenceTransformerTrainer`` with the corpus softmax, and what it comes to."""

import torch
from datasets import Dataset
from sentence_models import words_and_meanings
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import TrainerCallback

import negcache as nc
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs

STEPS, BATCH, RATE, RHO = 12, 8, 1e-2, 0.1
SECOND = 4


def some_pairs(*, mined=False):
    """Words and their meanings; ``mined``: with the meaning of the next word as a negative.

    The first words have a second row, with the meaning of the word after: two known positives.
    """
    words, meanings = words_and_meanings()
    data = Dataset.from_dict(
        {"anchor": words + words[:SECOND], "positive": meanings + meanings[1 : SECOND + 1]}
    )
    if mined:
        after = meanings[2:] + meanings[:2]
        data = data.add_column("negative", after + after[:SECOND])
    return corpus_pairs(data, meanings)


def cached(pairs):
    """Draws from the store that a loss makes, with the batch's positives."""
    shares = pairs.log_popularity
    return lambda store: nc.SharedDraws(nc.CachedSoftmax(store, 1), log_popularity=shares)


def arguments(out, **more):
    return SentenceTransformerTrainingArguments(
        out,
        **{
            "per_device_train_batch_size": BATCH,
            "max_steps": STEPS,
            "learning_rate": RATE,
            "lr_scheduler_type": "constant",
            "save_steps": 5,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
        }
        | more,
    )


class StopAt(TrainerCallback):
    """Ends a run early."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


def trainer_of(model, pairs, out, *callbacks, evaluated=None, sampler=None, **more):
    """Of one loss, with its callback."""
    loss = CorpusSoftmaxLoss(model, pairs, rho=RHO, sampler=sampler or cached(pairs))
    return SentenceTransformerTrainer(
        model=model,
        args=arguments(out, **more),
        train_dataset=pairs.dataset,
        eval_dataset=evaluated,
        loss=loss,
        callbacks=[loss.callback(), *callbacks],
    )


def outcome(trainer):
    """Weights, store, clock and generator."""
    return {name: value.clone() for name, value in trainer.loss.softmax.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []

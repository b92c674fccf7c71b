"""What does a host with our adapter cost over the plain loop?

    python -m benchmarks.hosts [--rounds 5] [--steps 8]

MiniLM with its top two layers trained (``benchmarks.lower_layers``), GO, batch 64, shared cached
draws joined by the batch's positives, fused AdamW, one thread. Hosts shuffle each in their own way,
so the queries are all of one length (as many tokens as most have) and every batch costs the same;
texts are tokenized ahead of each step everywhere. A round is each host once, in turn; seconds are
those of the CPU between the ends of two steps, the first two steps left out. The answer is the
median over rounds of a host's step over the plain loop's step of the same round; the bar is 1.02.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytorch_lightning as lightning
import torch
from accelerate import Accelerator
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

import negcache as nc
from benchmarks.against_mnrl import joined
from benchmarks.lower_layers import minilm_top
from benchmarks.record import append_rows, conclude, hardware
from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs
from negcache.run.data import Task

NAME, BATCH, WARM, RATE = "hosts", 64, 2, 3e-4
Ends = list[float]
"""CPU seconds at the end of each step."""


class QueryTower(nn.Module):
    """A sentence-transformers model as a tower for queries."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any]) -> torch.Tensor:
        return self.model(dict(features))["sentence_embedding"]


class Setting:
    """One model, its loss and its batches, made anew for each host of each round."""

    def __init__(self, task: Task, model: SentenceTransformer, weights: dict[str, Any]) -> None:
        model.load_state_dict(weights)
        model.train()
        torch.manual_seed(0)
        self.model = model
        items = task.corpus_text.texts(torch.arange(len(task.corpus_text)))
        queries, rows = one_length(task, model)
        positives = [items[row] for row in rows.tolist()]
        data = Dataset.from_dict({"anchor": queries, "positive": positives})
        self.pairs = corpus_pairs(data, items)
        self.adapter = CorpusSoftmaxLoss(model, self.pairs, sampler=joined(self.pairs))
        self.loss = self.adapter.softmax
        self.retriever = nc.Retriever(self.loss, QueryTower(model))
        self.optimizer = torch.optim.AdamW(
            [one for one in model.parameters() if one.requires_grad], RATE, fused=True
        )

    def fill(self, rows: torch.Tensor) -> None:
        """The first encoding of the corpus, which is that of the model as it came."""
        assert self.loss.store is not None
        self.loss.store.write(torch.arange(len(rows)), rows)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The columns of ``Retriever``."""
        labels = torch.tensor([row["label"] for row in rows])
        features = self.model.preprocess([row["anchor"] for row in rows])
        return {"queries": features, "positives": labels[:, 2], "query_ids": labels[:, 1]}

    def loader(self) -> DataLoader[Any]:
        data: Any = self.pairs.dataset
        return DataLoader(data, BATCH, collate_fn=self.collate)


def one_length(task: Task, model: SentenceTransformer) -> tuple[list[str], torch.Tensor]:
    """The training queries of the most frequent number of tokens, and their items."""
    learnt = task.learnable("train")
    texts = task.query_text.texts(learnt.queries)
    lengths = torch.cat(
        [
            model.preprocess(texts[first : first + BATCH])["attention_mask"].sum(dim=1)
            for first in range(0, len(texts), BATCH)
        ]
    )
    rows = (lengths == lengths.mode().values).nonzero().squeeze(1)
    return [texts[row] for row in rows.tolist()], learnt.items[rows]


class Stamps(TrainerCallback):
    """When each step of a Hugging Face trainer ends."""

    def __init__(self) -> None:
        self.ends: Ends = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.process_time())


def plain(setting: Setting, steps: int) -> Ends:
    ends = []
    for _, batch in zip(range(steps), setting.loader(), strict=False):
        loss = setting.retriever(**batch)["loss"]
        setting.optimizer.zero_grad()
        loss.backward()
        setting.optimizer.step()
        setting.loss.step()
        ends.append(time.process_time())
    return ends


def sentence_transformers(setting: Setting, steps: int) -> Ends:
    stamps = Stamps()
    with TemporaryDirectory() as folder:
        SentenceTransformerTrainer(
            setting.model,
            SentenceTransformerTrainingArguments(folder, **_common(steps)),
            train_dataset=setting.pairs.dataset,
            loss=setting.adapter,
            callbacks=[setting.adapter.callback(), stamps],
        ).train()
    return stamps.ends


def hugging_face(setting: Setting, steps: int) -> Ends:
    stamps = Stamps()
    setting.loss.step_with(setting.optimizer)
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, remove_unused_columns=False, **_common(steps))
        Trainer(
            setting.retriever,
            arguments,
            train_dataset=cast(Dataset, setting.pairs.dataset),
            data_collator=setting.collate,
            optimizers=(setting.optimizer, None),
            callbacks=[stamps],
        ).train()
    return stamps.ends


def accelerate(setting: Setting, steps: int) -> Ends:
    accelerator = Accelerator(cpu=True)
    setting.loss.step_with(setting.optimizer)
    model, optimizer = accelerator.prepare(setting.retriever, setting.optimizer)
    ends = []
    for _, batch in zip(range(steps), setting.loader(), strict=False):
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        ends.append(time.process_time())
    return ends


class Module(lightning.LightningModule):
    """As the docs write it."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.retriever, self.setting, self.ends = setting.retriever, [setting], []

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        return self.retriever(**batch)["loss"]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ends.append(time.process_time())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        setting = self.setting[0]
        setting.loss.step_with(setting.optimizer)
        return setting.optimizer


def in_lightning(setting: Setting, steps: int) -> Ends:
    module = Module(setting)
    with TemporaryDirectory() as folder:
        lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        ).fit(module, setting.loader())
    return module.ends


HOSTS: dict[str, Callable[[Setting, int], Ends]] = {
    "plain": plain,
    "sentence_transformers": sentence_transformers,
    "hugging_face": hugging_face,
    "lightning": in_lightning,
    "accelerate": accelerate,
}


def _common(steps: int) -> dict[str, Any]:
    """Arguments of both Hugging Face trainers."""
    return {
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def rounds(count: int, steps: int) -> Iterator[dict[str, float]]:
    """Seconds of a step in each host, one round after the other."""
    task, model = minilm_top("go")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    first = Setting(task, model, weights)
    first.loss.fill_cache(batch_size=256)
    store: Any = first.loss.store
    rows = store.rows(torch.arange(store.num_rows)).clone()
    for _ in range(count):
        seconds = {}
        for name, host in HOSTS.items():
            setting = Setting(task, model, weights)
            setting.fill(rows)
            ends = host(setting, steps)
            seconds[name] = (ends[-1] - ends[WARM - 1]) / (len(ends) - WARM)
        print({name: round(taken, 3) for name, taken in seconds.items()}, flush=True)
        yield seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = list(rounds(options.rounds, options.steps))
    for number, seconds in enumerate(measured):
        rows = {"round": number, "steps": options.steps} | seconds
        append_rows(NAME, [rows | hardware()])
    ratios = {
        name: statistics.median(seconds[name] / seconds["plain"] for seconds in measured)
        for name in HOSTS
        if name != "plain"
    }
    answer: dict[str, Any] = {f"{name}_over_plain": round(r, 4) for name, r in ratios.items()}
    plain_step = statistics.median(seconds["plain"] for seconds in measured)
    conclude(NAME, answer | {"plain_step_seconds": round(plain_step, 3), "bar": 1.02})


if __name__ == "__main__":
    main()

"""How good the negatives are, looked at while a ``SentenceTransformerTrainer`` trains."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import DatasetDict
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from negcache.diagnosis import Beside, Diagnosis, Settings, diagnose
from negcache.encoder import to_device, without_dropout
from negcache.errors import InputError
from negcache.integrations.sentence_transformers.texts import ItemTower
from negcache.shapes import Float, Tensor

if TYPE_CHECKING:
    from negcache.integrations.sentence_transformers.loss import CorpusSoftmaxLoss

TEXTS_AT_ONCE = 64
"""Queries embedded at a time."""


class DiagnosisCallback(TrainerCallback):
    """Looks at a loss every so many steps, and at the end; nothing of the training changes.

    Each look is written to ``diagnosis-STEP.json`` in the trainer's ``output_dir``. It encodes the
    whole corpus, unless ``settings`` say otherwise.

    Args:
        loss: the trainer's; give it its own ``callback()`` too.
        every: optimizer steps from one look to the next; 0: at the end alone.
        queries: training pairs looked at.
        settings: how closely; None: as many queries in a batch as the trainer has.
        prompt: put before each query, as the trainer's ``prompts`` does.

    Attributes:
        found: every look by its step.

    Raises:
        InputError: ``every`` below 0 or ``queries`` below 1.
    """

    def __init__(
        self,
        loss: "CorpusSoftmaxLoss",
        every: int = 0,
        *,
        queries: int = 128,
        settings: Settings | None = None,
        prompt: str = "",
    ) -> None:
        if every < 0 or queries < 1:
            raise InputError(
                "every of 0 or more steps, 1 query or more",
                f"every {every}, {queries} queries",
                "leave both out: 128 queries at the end",
            )
        self.loss, self.every, self.queries = loss, every, queries
        self.settings, self.prompt = settings, prompt
        self.found: dict[int, Diagnosis] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.every and state.global_step % self.every == 0:
            self._look(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step not in self.found:
            self._look(args, state)

    def _look(self, args: TrainingArguments, state: TrainerState) -> None:
        split = self.loss.pairs.dataset
        if isinstance(split, DatasetDict):
            split = split["train"] if "train" in split else next(iter(split.values()))
        noise = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(split), generator=noise)[: self.queries].tolist()
        some = split[chosen]
        labels = torch.tensor(some["label"], device=self.loss.softmax.device)
        settings = self.settings or Settings(batch_size=args.train_batch_size)
        every = torch.tensor(split["label"][:])
        self.found[state.global_step] = diagnose(
            self.loss.softmax,
            self._embed(some[self.loss.pairs.query_column]),
            labels[:, 2],
            labels[:, 1],
            settings=settings,
            beside=Beside(partners=every[:, 2]),
        )
        path = Path(args.output_dir or ".") / f"diagnosis-{state.global_step}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = {"step": state.global_step, **self.found[state.global_step].figures()}
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> Float[Tensor, "Q D"]:
        """Queries as the trainer has the model embed them, without dropout."""
        tower = self.loss.softmax.item_tower
        model: Any = self.loss.model
        assert isinstance(tower, ItemTower)
        parts = []
        with without_dropout(tower):
            for first in range(0, len(texts), TEXTS_AT_ONCE):
                some = texts[first : first + TEXTS_AT_ONCE]
                if hasattr(model, "preprocess"):
                    features = model.preprocess(some, prompt=self.prompt, task="query")
                else:  # sentence-transformers before 5.4
                    features = model.tokenize([self.prompt + text for text in some], task="query")
                parts.append(tower.embed(to_device(dict(features), self.loss.softmax.device)))
        return torch.cat(parts)

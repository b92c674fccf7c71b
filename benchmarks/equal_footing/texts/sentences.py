"""A tower as a ``SentenceTransformer``, for what asks for one."""

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from benchmarks.equal_footing.texts.objectives import Setup
from negcache.shapes import Int, Tensor


class TowerOfRows(InputModule):
    """Its sentences are names of rows, "query 17" or "item 5": their texts are already tokens.

    Args:
        setup: of the run.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.tower, self.problem = setup.tower, setup.problem

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        return of_rows(inputs[0].split()[0], torch.tensor(rows(inputs)))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Of one side alone."""
        is_item, chosen = bool(features["is_item"][0]), features["input_ids"]
        found = self.tower((self.problem.items if is_item else self.problem.queries)[chosen])
        return features | {"sentence_embedding": found}

    def get_embedding_dimension(self) -> int:
        return self.problem.dim

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("the tower is the benchmark's")


def model(setup: Setup) -> SentenceTransformer:
    """The run's tower; what is trained in one is trained in the other."""
    return SentenceTransformer(modules=[TowerOfRows(setup)], device="cpu")


def of_rows(side: str, chosen: Int[Tensor, "B"]) -> dict[str, Tensor]:
    """What the tower takes for rows of a side, "query" or "item"."""
    return {"input_ids": chosen, "is_item": torch.full((len(chosen),), side == "item")}


def names(side: str, chosen: Int[Tensor, "B"]) -> list[str]:
    """The sentences of rows of a side, "query" or "item"."""
    return [f"{side} {row}" for row in chosen.tolist()]


def rows(sentences: list[str]) -> list[int]:
    """Whose names they are."""
    return [int(name.split()[1]) for name in sentences]

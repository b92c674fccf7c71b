"""A trained pair of towers over a task: evaluated on its splits, asked with free text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from negcache.distributed import Mesh
from negcache.interfaces import Corpus
from negcache.run.cli.towers import Towers
from negcache.run.data import Task
from negcache.run.evaluation import Evaluation, Side, encode_all, encoded, evaluate
from negcache.run.progress import track
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Retriever:
    """A trained pair of towers over a task: what evaluation and search need.

    Args:
        queries, items: what the towers read, by row of the task.
        read: a text that is in no file -> what the query tower reads.
    """

    task: Task
    query_tower: nn.Module
    item_tower: nn.Module
    score: DotScore
    queries: Corpus
    items: Corpus
    read: Callable[[str], Any]

    @staticmethod
    def of(task: Task, towers: Towers, score: DotScore) -> "Retriever":
        """Towers over a task; they need not have been trained on it."""
        pair = towers.query_tower, towers.item_tower
        return Retriever(task, *pair, score, *towers.over(task), towers.read)

    @property
    def dev(self) -> Callable[[], dict[str, float]] | None:
        """Measures the dev split; None where there is none."""
        return (lambda: self.evaluate("dev").means) if "dev" in self.task.splits else None

    def evaluate(self, split: str) -> Evaluation:
        """Search all queries of a split over all items."""
        judged = self.task.judgements(split)
        queries = Side(self.query_tower, self.queries, self.task.query_text)
        items = Side(self.item_tower, self.items, self.task.corpus_text)
        mesh = Mesh.now()
        progress = track("encoding items") if mesh.rank == 0 else iter
        return evaluate(queries, items, self.score, judged, progress=progress, mesh=mesh)

    def encode_some(self, ids: range) -> Iterator[Float[Tensor, "c D"]]:
        """Some items, as search sees them, a chunk at a time."""
        for _, rows in encoded(self.item_tower, self.items, self.score, ids=ids):
            yield rows

    def encode_text(self, text: str) -> Float[Tensor, "1 D"]:
        """A query that is in no file."""
        return encode_all(self.query_tower, _OneText(self.read(text)), self.score)


@dataclass(frozen=True)
class _OneText:
    """A corpus of one text."""

    features: Any

    def __len__(self) -> int:
        return 1

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Any:
        return self.features

"""Search in a run: the corpus is encoded once and kept beside the run."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from negcache.errors import visible
from negcache.run.atomic import atomic_write
from negcache.run.cli.retriever import Retriever
from negcache.run.cli.runs import Run
from negcache.run.evaluation import top_k_of_all
from negcache.run.training.checkpoint import writing
from negcache.shapes import Float, Tensor


@dataclass(frozen=True)
class Searcher:
    """A retriever and its encoded corpus."""

    retriever: Retriever
    rows: Float[Tensor, "N D"]

    def find(self, text: str, k: int) -> list[tuple[float, str, str]]:
        """The k best items: (logit, name, text), best first."""
        query = self.retriever.encode_text(text)
        k = min(k, len(self.rows))
        scores, ids = top_k_of_all(query, self.rows, self.retriever.score, k)
        table = self.retriever.task.corpus_text
        found = zip(scores[0].tolist(), table.ids(ids[0]), table.texts(ids[0]), strict=True)
        return list(found)


def open_searcher(run: Run) -> Searcher:
    """Load the index of the run's newest checkpoint, or encode the corpus and keep it."""
    path = run.folder / "index" / f"step-{run.trainer.step:09d}.safetensors"
    fingerprint = run.retriever.task.fingerprint
    rows = _load(path, fingerprint)
    if rows is None:
        rows = run.retriever.encode_items()
        with writing(path), atomic_write(path) as part:
            save_file({"rows": rows.cpu()}, part, metadata={"fingerprint": fingerprint})
    return Searcher(run.retriever, rows.to(run.retriever.score.scale.device))


def show(console: Console, found: list[tuple[float, str, str]], asked: str) -> None:
    """A table of what was found."""
    table = Table(title=Text(visible(asked)), title_justify="left", expand=False)
    table.add_column("score", justify="right")
    table.add_column("entry")
    for score, name, text in found:
        table.add_row(f"{score:.2f}", Text(visible(text or name)))
    console.print(table, markup=False)


def prompt(console: Console, searcher: Searcher, k: int, hint: str) -> None:
    """Ask and answer until an empty line or the end of input."""
    console.print(f"{hint} An empty line ends.", markup=False)
    while True:
        console.print("> ", end="")
        line = sys.stdin.readline().strip()
        if not line:
            return
        show(console, searcher.find(line, k), line)


def _load(path: Path, fingerprint: str) -> Tensor | None:
    """The saved rows, if they are of this data."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            same = (file.metadata() or {}).get("fingerprint") == fingerprint
            return file.get_tensor("rows") if same else None
    except SafetensorError:  # damaged: it is only a copy, and is encoded anew
        return None

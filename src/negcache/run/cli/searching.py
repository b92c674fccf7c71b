"""Search in a run: the corpus is encoded once and kept beside the run."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from negcache.errors import InputError, visible
from negcache.run.atomic import atomic_write, check_writable, writing
from negcache.run.cli.retriever import Retriever
from negcache.run.cli.runs import Run
from negcache.run.evaluation import top_k_of_all
from negcache.run.lock import check_own_files
from negcache.score import DotScore
from negcache.shapes import Float, Tensor


@dataclass(frozen=True)
class Searcher:
    """A retriever and its encoded corpus."""

    retriever: Retriever
    rows: Float[Tensor, "N D"]

    def find(self, text: str, k: int) -> list[tuple[float, str, str]]:
        """The k best items: (logit, name, text), best first.

        Raises:
            InputError: a text without a token.
        """
        check_text(text)
        query = self.retriever.encode_text(text)
        k = min(k, len(self.rows))
        scores, ids = top_k_of_all(query, self.rows, self.retriever.score, k)
        table = self.retriever.task.corpus_text
        found = zip(scores[0].tolist(), table.ids(ids[0]), table.texts(ids[0]), strict=True)
        return list(found)


def check_text(text: str) -> None:
    """Refuse a text that says nothing."""
    if not text.strip():
        raise InputError("a text to search for", "an empty one", "write what you look for")


def open_searcher(run: Run, out: Path | None = None) -> Searcher:
    """Load the index of the run's checkpoint, or encode the corpus and keep it.

    Args:
        run: of which the towers are trained.
        out: folder of indexes; None: ``index`` in that of the run, and no index is kept of a run
            that may not be written to.
    """
    step = run.trainer.step
    home = run.folder / "index" if out is None else out
    path = home / f"step-{step:09d}.safetensors"
    of = {
        "data": run.retriever.task.fingerprint,
        "checkpoint": run.trainer.checkpoints.digest(step),
    }
    rows = _load(path, of)
    if rows is None:
        keeps = _is_kept(run.folder, home, chosen=out is not None)
        rows = run.retriever.encode_items()
        if keeps:
            with writing(path), atomic_write(path) as part:
                save_file({"rows": rows.cpu()}, part, metadata=of)
    return Searcher(run.retriever, rows.to(run.retriever.score.scale.device))


def show(console: Console, searcher: Searcher, text: str, k: int) -> None:
    """A table of what is found for a text."""
    table = Table(title=Text(visible(text)), title_justify="left", expand=False)
    table.add_column("score", justify="right")
    table.add_column("id", overflow="fold")
    table.add_column("entry")
    for score, name, entry in searcher.find(text, k):
        table.add_row(f"{score:.2f}", Text(visible(name)), Text(visible(entry)))
    console.print(table, markup=False)
    told = _explain(searcher.retriever.score)
    console.print(told, style="dim", markup=False, highlight=False, soft_wrap=True)


def prompt(console: Console, searcher: Searcher, k: int, hint: str) -> None:
    """Ask and answer until an empty line or the end of input."""
    console.print(f"{hint} An empty line ends.", markup=False)
    while True:
        console.print("> ", end="")
        line = sys.stdin.readline().strip()
        if not line:
            return
        show(console, searcher, line, k)


def _explain(score: DotScore) -> str:
    """What the numbers of a score are."""
    kind = "cosine similarity" if score.normalize else "inner product"
    return f"score: {kind} / temperature {1 / score.scale.item():.3g}; higher is better"


def _is_kept(run: Path, home: Path, *, chosen: bool) -> bool:
    """Whether the index can be; a place that was chosen has to take it."""
    try:
        if not chosen:
            check_own_files(run)
        check_writable(home)
    except InputError as error:
        if chosen or not isinstance(error.__cause__, OSError):
            raise
        warnings.warn(
            f"the index is not kept: {error.got}; --out FOLDER keeps it elsewhere", stacklevel=2
        )
        return False
    return True


def _load(path: Path, of: dict[str, str]) -> Tensor | None:
    """The saved rows, if they are of this data and checkpoint."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("rows") if file.metadata() == of else None
    except SafetensorError:  # damaged: it is only a copy, and is encoded anew
        return None

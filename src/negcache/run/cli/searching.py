"""Search in a run: the corpus is encoded once, kept beside the run, and read in chunks."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from negcache.errors import InputError, visible
from negcache.indexes import top_k
from negcache.run.atomic import check_writable
from negcache.run.cli.item_index import ItemIndex
from negcache.run.cli.retriever import Retriever
from negcache.run.cli.runs import Run
from negcache.run.lock import check_own_files
from negcache.run.progress import track
from negcache.score import DotScore


@dataclass(frozen=True)
class Searcher:
    """A retriever and its encoded corpus, which stays on the disk."""

    retriever: Retriever
    index: ItemIndex

    @torch.no_grad()
    def find(self, text: str, k: int) -> list[tuple[float, str, str]]:
        """The k best items: (logit, name, text), best first. All items are read, in chunks.

        Raises:
            InputError: a text without a token.
        """
        check_text(text)
        query = self.retriever.encode_text(text)
        k, chunks = min(k, self.index.num_items), self.index.chunks(query.device)
        scores, ids = top_k(query, chunks, self.retriever.score, k)
        table, ids = self.retriever.task.corpus_text, ids[0].cpu()
        found = zip(scores[0].tolist(), table.ids(ids), table.texts(ids), strict=True)
        return list(found)


def check_text(text: str) -> None:
    """Refuse a text that says nothing."""
    if not text.strip():
        raise InputError("a text to search for", "an empty one", "write what you look for")


@contextmanager
def open_searcher(run: Run, out: Path | None = None) -> Iterator[Searcher]:
    """The index of the run's checkpoint; parts of it that are missing are encoded and kept first.

    Args:
        run: of which the towers are trained.
        out: folder of indexes; None: ``index`` in that of the run, or one for the time being where
            the run may not be written to.
    """
    step = run.trainer.step
    home = run.folder / "index" if out is None else out
    of = {
        "data": run.retriever.task.fingerprint,
        "checkpoint": run.trainer.checkpoints.digest(step),
    }
    place = home / f"step-{step:09d}"
    index = ItemIndex(place, len(run.retriever.items), run.towers.dim, of)
    with ExitStack() as stack:
        if index.missing() and not _is_kept(run.folder, home, chosen=out is not None):
            beside = stack.enter_context(TemporaryDirectory(prefix="negcache-"))
            index = replace(index, folder=Path(beside))
        _fill(index, run.retriever)
        yield Searcher(run.retriever, index)


def _fill(index: ItemIndex, retriever: Retriever) -> None:
    """Encode what is missing, a chunk at a time, and keep each part as it is complete."""
    missing = index.missing()
    shown = track("encoding items", total=sum(map(len, missing)), size=len)
    some = iter(shown(rows for part in missing for rows in retriever.encode_some(part)))
    for part in missing:
        rows, end = torch.empty(len(part), index.dim), 0
        while end < len(part):
            fresh = next(some)
            rows[end : end + len(fresh)] = fresh
            end += len(fresh)
        index.write(part, rows)


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

"""``negcache diagnose``: a run's negatives against the softmax over all its items."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from negcache.diagnosis import Beside, Diagnosis, Settings, diagnose
from negcache.diagnosis.variants import variants
from negcache.errors import InputError, visible
from negcache.run.atomic import atomic_write, check_writable, writing
from negcache.run.cli.diagnosing.figures import FIGURES, FOLDER, PAGE, figures_of
from negcache.run.cli.diagnosing.keys import with_keys
from negcache.run.cli.diagnosing.opening import (
    COUNTED,
    embedded,
    items_for,
    loss_of,
    some_pairs,
)
from negcache.run.cli.diagnosing.others import check_words, other_samplers
from negcache.run.cli.diagnosing.page import render
from negcache.run.cli.diagnosing.streamed import coming, items_of, recent_items
from negcache.run.cli.diagnosing.suspects import SPLITS, TWINS, OtherSplits, TextTwins
from negcache.run.cli.runs import Run, read_config, trained
from negcache.run.cli.sources import StreamSource
from negcache.run.progress import track

USUAL = ("in_batch", "uniform")
"""Samplers that are measured beside, where nobody names any; the second unless it is anyway."""

READING = (
    "Bias, spread and error of a step: relative to the exact gradient's norm, the root mean square "
    "of both towers' (the page has each). Cosine: of a step to the exact gradient, query tower."
)
"""Beneath the table."""


@dataclass(frozen=True)
class Looking:
    """How closely a run is looked at.

    Args:
        words: of other samplers; None: `USUAL`.
        split: whose pairs.
        queries: how many.
        repeats: draws for each batch of them.
        items: that stand for all; None: all, or as many as take a minute or two.
        checkpoint: which; None: the best where there is one, else the newest.
    """

    words: Sequence[str] | None = None
    split: str = "train"
    queries: int = 256
    repeats: int = 16
    items: int | None = None
    checkpoint: str | None = None


def look_at(folder: Path, looking: Looking, out: Path | None) -> None:
    """Measure, print, and write ``diagnosis.json`` and ``diagnosis.html``.

    Args:
        folder: of the run, which is not changed but for what is written.
        looking: how closely.
        out: where the files go; None: ``diagnosis`` in the folder of the run.
    """
    words = None if looking.words is None else check_words(read_config(folder), looking.words)
    with trained(folder, looking.checkpoint, reads_only=out is not None, whole=True) as run:
        home = out or folder / FOLDER
        check_writable(home)
        found = with_keys(measured(run, words, looking), run.config)
        figures = figures_of(run, found, looking.split)
        page = render(found, figures)
        files = {FIGURES: json.dumps(figures, indent=2) + "\n", PAGE: page}
        with writing(home), ExitStack() as stack:
            for name, content in files.items():
                path = stack.enter_context(atomic_write(home / name))
                path.write_text(content, encoding="utf-8")
    _show(Console(), found)
    typer.echo(visible(f"written to {home / PAGE} and {FIGURES}"))


def measured(run: Run, words: Sequence[str] | None, looking: Looking) -> Diagnosis:
    """The diagnosis of a run that is open."""
    if isinstance(run.source, StreamSource):
        return _of_stream(run, run.source, words, looking)
    task, config = run.retriever.task, run.config
    if words is None:
        is_varied = bool(variants(loss_of(run).sampler, len(task.corpus), None, None))
        words = check_words(config, USUAL[:1] if is_varied else USUAL)
    pairs = some_pairs(run, looking.split, looking.queries, config.seed)
    known = [table for split, table in task.known.items() if split != "train"]
    suspects = {SPLITS: OtherSplits(known), TWINS: TextTwins.of(task, track("reading texts"))}
    loss_fn, total = loss_of(run), len(task.corpus)
    some = torch.arange(min(COUNTED, total), device=loss_fn.device)
    items = items_for(looking.items, total, loss_fn.encoder, some, run.towers.dim)
    return diagnose(
        loss_fn,
        embedded(run, pairs),
        pairs.items.to(loss_fn.device),
        pairs.queries.to(loss_fn.device),
        settings=_settings(run, looking, len(pairs), items),
        beside=Beside(
            other_samplers(run, words, track("filling a cache")),
            partners=task.learnable("train").items,
            suspects=suspects,
            own=config.sampler.name,
        ),
        progress=track("diagnosing"),
    )


def _of_stream(
    run: Run, source: StreamSource, words: Sequence[str] | None, looking: Looking
) -> Diagnosis:
    """Of the pairs that would have come next, against all items that come."""
    _check_split(looking.split)
    words = check_words(run.config, USUAL[:1] if words is None else words)
    others = other_samplers(run, words, track("filling a cache"))
    asked = coming(run, source, looking.queries)
    every = items_of(run, source, track("reading ids"))
    some = asked.some.to(loss_of(run).device)
    items = items_for(looking.items, len(every.ids), asked.encoder, some, run.towers.dim)
    return diagnose(
        loss_of(run),
        asked.queries,
        asked.positives,
        asked.query_ids,
        settings=_settings(run, looking, len(asked.positives), items),
        beside=Beside(
            others,
            partners=asked.partners,
            own=run.config.sampler.name,
            items=every,
            recent=recent_items(run, source),
        ),
        progress=track("diagnosing"),
    )


def _settings(run: Run, looking: Looking, pairs: int, items: int | None) -> Settings:
    size = min(run.config.batch_size, pairs)
    return Settings(repeats=looking.repeats, batch_size=size, items=items)


def _check_split(split: str) -> None:
    if split != "train":
        raise InputError(
            "--split train of a run on data.pairs, which learns from the pairs that come",
            repr(split),
            "leave --split out; for the queries of a task diagnose a run that is trained on it",
        )


def _show(console: Console, found: Diagnosis) -> None:
    table = Table(title=f"Gradient of {found.queries:,} queries against the exact softmax")
    table.add_column("negatives", overflow="fold")
    for name in ("bias", "spread", "error", "cosine", "ESS", "KL", "TV", "items a step"):
        table.add_column(name, justify="right")
    for each in found.samplers:
        law = [f"{value:.2f}" if value is not None else "-" for value in (each.kl, each.tv)]
        own = (each.bias, each.sd, each.error, each.query.cosine_of_one)
        figures = [*(f"{value:.3f}" for value in own), f"{each.effective_sample_size:.1f}", *law]
        table.add_row(Text(visible(each.name)), *figures, f"{each.cost:,.0f}")
    console.print(table)
    sentences = [advice.sentence for advice in found.advice] or [found.silence]
    told = [READING, found.reach] if found.reach else [READING]
    for text in (*told, *(f"- {visible(sentence)}" for sentence in sentences)):
        console.print(text, markup=False, highlight=False, soft_wrap=True)

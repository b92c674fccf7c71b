"""The size of a transformer, from its folder's configs alone: no weights are read."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from negcache.run.cli.planning.tower import PerText, TowerSize
from negcache.towers.model_files import TRUSTED, loading, module_folders, read_json

KEPT_PER_LAYER = 16
"""Floats a layer keeps for the backward pass, per token and hidden dimension, at least.

MiniLM (BERT in float32) keeps 21 to 25 at 32 to 64 tokens, counted by saved-tensor hooks.
"""


def transformer_size(
    folder: Path, train_layers: int | None = None, *, checkpointing: bool = False
) -> TowerSize:
    """Parameters and work of a sentence-transformers or Hugging Face folder.

    Work is two flops a token and weight outside of embedding tables; products of queries and keys
    are left out.

    Args:
        folder: of the model.
        train_layers: so many of the topmost layers are trained; None: all parameters.
        checkpointing: only the input of each layer is kept.
    """
    first, *others = module_folders(folder)
    encoder, hidden = _empty(first)
    dense = [size for part in others if (size := _dense(part))]
    after = sum(rows * columns + bias for rows, columns, bias in dense)
    tables, head = set(_tables(encoder)), set(_head(encoder))
    own = list(encoder.parameters())
    topmost = own if train_layers is None else _topmost(encoder, train_layers)
    trained = [parameter for parameter in topmost if parameter not in head]
    layers = min(train_layers or len(_stack(encoder)), len(_stack(encoder)))
    kept = KEPT_PER_LAYER * layers
    if checkpointing:
        kept = min(kept, KEPT_PER_LAYER + len(_stack(encoder)))
    return TowerSize(
        parameters=_numbers(own) + after,
        trained=_numbers(trained) + after,
        tensors=len(trained) + sum(1 + (bias > 0) for *_, bias in dense),
        dim=dense[-1][1] if dense else hidden,
        forward=PerText(after + _numbers(head), _numbers(set(own) - tables - head)),
        trained_forward=PerText(after, _numbers(set(trained) - tables)),
        kept=PerText(0, kept * hidden),
        recomputes=checkpointing,
    )


def token_counts(
    folder: Path, most: int | None, texts: list[str], queries: list[str]
) -> tuple[list[int], list[int], int]:
    """Tokens of texts and queries, and bytes of a text padded to the most there may be.

    Args:
        folder: of the model.
        most: tokens of a text; None: as the tokenizer says.
    """
    home = module_folders(folder)[0]
    with loading(home, "a tokenizer that transformers can read"):
        tokenizer = AutoTokenizer.from_pretrained(str(home), **TRUSTED)
        most = most or tokenizer.model_max_length
        made = [tokenizer(each, truncation=True, max_length=most) for each in (texts, queries)]
    counts, queried = ([len(ids) for ids in each["input_ids"]] for each in made)
    return counts, queried, 8 * most * len(made[0])  # int64 tensors by name


def _empty(folder: Path) -> tuple[nn.Module, int]:
    """The transformer with shapes and without memory, and its hidden size."""
    with loading(folder, "a model config that transformers can read"), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), **TRUSTED)
        return AutoModel.from_config(config, trust_remote_code=False), int(config.hidden_size)


def _dense(folder: Path) -> tuple[int, int, int] | None:
    """(in, out, numbers in the bias) of a dense module; None: the module has no parameters."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else {}
    with loading(path, "the config of a module"):
        if not {"in_features", "out_features"} <= values.keys():
            return None
        rows, columns = int(values["in_features"]), int(values["out_features"])
        return rows, columns, columns if values.get("bias", True) else 0


def _stack(encoder: nn.Module) -> nn.ModuleList:
    """The transformer layers: the longest list of modules."""
    lists = (module for module in encoder.modules() if isinstance(module, nn.ModuleList))
    return max(lists, key=len, default=nn.ModuleList())


def _topmost(encoder: nn.Module, count: int) -> Iterator[nn.Parameter]:
    """Parameters of the topmost layers and of what comes after them, embedding tables left out."""
    stack = _stack(encoder)
    inside, tables = set(stack.parameters()), set(_tables(encoder))
    top = {parameter for layer in stack[-count:] for parameter in layer.parameters()}
    above = False
    for parameter in encoder.parameters():
        above = above or parameter in inside
        if parameter in top or (above and parameter not in inside | tables):
            yield parameter


def _tables(encoder: nn.Module) -> Iterator[nn.Parameter]:
    for module in encoder.modules():
        if isinstance(module, nn.Embedding):
            yield from module.parameters()


def _head(encoder: nn.Module) -> Iterator[nn.Parameter]:
    """Of the encoder's own pooler, which sentence-transformers runs and does not read."""
    pooler = getattr(encoder, "pooler", None)
    if isinstance(pooler, nn.Module):
        yield from pooler.parameters()


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)

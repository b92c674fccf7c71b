"""Encoders on disk as sentence-transformers models: read offline, and set up for training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers.utils import logging

from negcache.errors import InputError
from negcache.towers.model_files import TRUSTED, loading, module_folders


def check_folder(folder: Path, pooling: str | None) -> bool:
    """Whether a folder is a whole sentence-transformers model; reads no weights.

    Raises:
        InputError: it is no model, or a plain encoder and ``pooling`` is not named, or it would
            have code of its own run.
    """
    whole = (folder / "modules.json").is_file()
    if not whole and not (folder / "config.json").is_file():
        raise InputError(
            "a model folder with modules.json or config.json",
            f"{folder}" + ("" if folder.is_dir() else ", which is no folder"),
            "name a sentence-transformers or Hugging Face model that lies on this disk",
        )
    if not whole and pooling not in Pooling.POOLING_MODES:
        raise InputError(
            "a model folder with a pooling config, or the pooling named",
            f"{folder} without modules.json, and pooling={pooling!r}",
            f"pass the pooling the model was trained with: {', '.join(Pooling.POOLING_MODES)}",
        )
    module_folders(folder)
    return whole


def read(folder: Path, pooling: str | None, dtype: torch.dtype) -> SentenceTransformer:
    """The model in a folder, with the pooling it brings or the one that was named."""
    whole = check_folder(folder, pooling)
    settings = {"dtype": dtype, "use_safetensors": True}
    with loading(folder, "a model that sentence-transformers can load"), without_bars():
        if whole:
            model = SentenceTransformer(str(folder), device="cpu", model_kwargs=settings, **TRUSTED)
            _check_own_pooling(model, folder, pooling)
            return model
        encoder = Transformer(
            str(folder),
            model_kwargs=TRUSTED | settings,
            processor_kwargs=dict(TRUSTED),
            config_kwargs=dict(TRUSTED),
        )
        pool = Pooling(encoder.get_embedding_dimension(), pooling)  # pyright: ignore[reportArgumentType]
        return SentenceTransformer(modules=[encoder, pool], device="cpu")


@contextmanager
def without_bars() -> Iterator[None]:
    """Standard error stays with the caller while files are read or written."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_own_pooling(model: SentenceTransformer, folder: Path, pooling: str | None) -> None:
    own = next((part.pooling_mode for part in model if isinstance(part, Pooling)), None)
    if pooling not in (None, own):
        raise InputError(
            f"no pooling beside the folder's own ({own})",
            f"pooling={pooling!r} for {folder}",
            "leave pooling out, or name the folder of the plain encoder",
        )


def dimensions(model: SentenceTransformer) -> int:
    """Of an embedding."""
    dim = model.get_embedding_dimension()
    if dim is None:
        raise InputError(
            "a model that pools its tokens to one vector",
            "modules " + ", ".join(type(part).__name__ for part in model),
            "add a pooling to its modules.json",
        )
    return dim


def set_length(model: SentenceTransformer, max_length: int | None) -> None:
    """The length asked for; else the folder's, as far as the positions go."""
    if max_length is None:
        room = _positions(model)
        own = model.max_seq_length
        max_length = min(length for length in (room, own, 2**31) if length is not None)
    check_length(model, max_length)
    model.max_seq_length = max_length


def check_length(model: SentenceTransformer, max_length: int) -> None:
    room, special = _positions(model), model.tokenizer.num_special_tokens_to_add()
    if room is not None and max_length > room:
        raise InputError(
            f"max_length of at most the {room} positions of the model",
            f"{max_length}",
            "cut texts shorter, or take a model for longer ones",
        )
    if max_length <= special:
        raise InputError(
            f"max_length above the {special} special tokens of the model",
            f"{max_length}",
            "leave room for the text",
        )


def transformer_of(model: SentenceTransformer) -> Transformer:
    """The first module, if it is a transformer."""
    first = model[0]
    if not isinstance(first, Transformer):
        raise InputError(
            "a sentence-transformers model whose first module is a transformer",
            type(first).__name__,
            "take another model; bags of static vectors are negcache.StaticTower",
        )
    return first


def _positions(model: SentenceTransformer) -> int | None:
    """Tokens the transformer can place; None: it does not say."""
    for module in transformer_of(model).modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):  # RoBERTa and its kin count from the padding id up
            return table.num_embeddings - (
                0 if table.padding_idx is None else table.padding_idx + 1
            )
    limit = getattr(transformer_of(model).config, "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None


def set_normalize(model: SentenceTransformer, wanted: bool) -> None:
    """Unit norm as the last module, or no longer."""
    while len(model) and isinstance(model[-1], Normalize):
        del model[-1]
    if wanted:
        model.append(Normalize())


def freeze_below(model: SentenceTransformer, count: int) -> None:
    """Gradient for the topmost layers and what comes after them alone."""
    encoder: nn.Module = transformer_of(model).auto_model
    layers = _layers(encoder)
    if not 1 <= count <= len(layers):
        raise InputError(
            f"train_layers from 1 to the {len(layers)} layers of the model",
            f"{count}",
            "None trains all of it, embeddings included",
        )
    top = {id(parameter) for layer in layers[-count:] for parameter in layer.parameters()}
    inside = {id(parameter) for parameter in layers.parameters()}
    tables = {
        id(p) for m in encoder.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    above = False
    for parameter in encoder.parameters():  # in the order of the forward pass
        above = above or id(parameter) in inside
        after = above and id(parameter) not in inside | tables
        parameter.requires_grad_(id(parameter) in top or after)


def _layers(encoder: nn.Module) -> nn.ModuleList:
    """The stack of transformer layers: the longest list of modules that are alike."""
    return max(_stacks(encoder), key=len, default=nn.ModuleList())


def _stacks(encoder: nn.Module) -> Iterator[nn.ModuleList]:
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1:
            yield module

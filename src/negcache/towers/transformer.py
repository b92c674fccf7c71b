"""A sentence-transformers model as a tower. Needs the extra ``transformers``; never goes online."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from negcache.errors import InputError
from negcache.shapes import Float, Tensor

TEXTS_AT_ONCE = 64  # encoded without gradient; bounds memory when a whole corpus is asked for


class TransformerTower(nn.Module):
    """A text encoder with its tokenizer and pooling: tokenized texts -> embeddings.

    Without gradient, texts are encoded 64 at a time and by length, so that asking for many
    costs no more memory and little padding.

    Args:
        model: its first module a transformer, as ``load`` makes it.
        prompt: put before every text unless another is asked for.
    """

    def __init__(self, model: SentenceTransformer, *, prompt: str = "") -> None:
        super().__init__()
        _transformer(model)
        self.model, self.prompt = model, prompt
        self.dim = _dim(model)

    @staticmethod
    def load(
        folder: str | Path,
        *,
        pooling: str | None = None,
        prompt: str = "",
        max_length: int | None = None,
        normalize: bool | None = None,
        gradient_checkpointing: bool = False,
        train_layers: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "TransformerTower":
        """Read a model from a folder on disk.

        Args:
            folder: of a sentence-transformers model, or of a plain Hugging Face encoder.
            pooling: "mean", "cls", "max", "lasttoken" and so on; for a plain encoder only.
            prompt: put before every text, such as "query: ".
            max_length: tokens of a text, prompt and special tokens included; longer ones are cut.
                None: as the folder says.
            normalize: whether embeddings have unit norm, here and where the tower is saved.
                None: as the folder says.
            gradient_checkpointing: keep the input of each layer alone and compute the rest again
                in backward: less memory, about a third more time.
            train_layers: only so many of the topmost layers, and what is above, get gradient.
            dtype: of the parameters.

        Raises:
            InputError: no model there, no pooling, or a length or layers that the model lacks.
        """
        model = _read(Path(folder), pooling, dtype)
        _set_length(model, max_length)
        if normalize is not None:
            _set_normalize(model, normalize)
        if train_layers is not None:
            _freeze_below(model, train_layers)
        if gradient_checkpointing:
            _transformer(model).auto_model.activation_checkpointing_enable()
        return TransformerTower(model, prompt=prompt)

    @property
    def max_length(self) -> int:
        """Tokens of a text, prompt and special tokens included."""
        return int(self.model.max_seq_length or 0)

    def tokenize(
        self, texts: Sequence[str], *, prompt: str | None = None, max_length: int | None = None
    ) -> Any:
        """Token ids and masks [B, L], padded to the longest of these texts.

        Args:
            texts: at least one.
            prompt: put before each; None: the tower's own.
            max_length: cut at so many tokens; None: the tower's own.
        """
        prompt = self.prompt if prompt is None else prompt
        return self.model.preprocess(list(texts), prompt=prompt, max_length=max_length)

    def check_length(self, max_length: int) -> None:
        """Refuse a length that the model cannot read."""
        _check_length(self.model, max_length)

    def forward(self, features: Mapping[str, Any]) -> Float[Tensor, "B D"]:
        """Embeddings of what ``tokenize`` made."""
        if torch.is_grad_enabled() or len(features["input_ids"]) <= TEXTS_AT_ONCE:
            return self._embed(features)
        order = features["attention_mask"].sum(dim=1).argsort(descending=True, stable=True)
        parts = [self._embed(_only(features, rows)) for rows in order.split(TEXTS_AT_ONCE)]
        return torch.cat(parts)[order.argsort()]

    def save(self, folder: str | Path, *, prompts: Mapping[str, str] | None = None) -> Path:
        """Write a folder that ``SentenceTransformer(folder)`` loads; whole or not at all.

        Args:
            folder: to be made.
            prompts: by sentence-transformers' names, "query" and "document"; None: the tower's own
                for both. Where all are equal, ``encode`` uses it too.
        """
        folder = Path(folder)
        if folder.exists():
            raise InputError("a folder that does not exist yet", f"{folder}", "choose another")
        prompts = {"query": self.prompt, "document": self.prompt} if prompts is None else prompts
        same = len(set(prompts.values())) == 1 and any(prompts.values())
        self.model.prompts |= prompts
        self.model.default_prompt_name = next(iter(prompts)) if same else None
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
            self.model.save(f"{aside}/model", create_model_card=False)
            os.rename(f"{aside}/model", folder)
        return folder

    def _embed(self, features: Mapping[str, Any]) -> Tensor:
        return self.model(dict(features))["sentence_embedding"]


def _only(features: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """Some texts, without the columns that are padding in all of them."""
    columns = features["attention_mask"][rows].any(dim=0)
    return {
        name: value[rows][:, columns] if isinstance(value, torch.Tensor) else value
        for name, value in features.items()
    }


def _read(folder: Path, pooling: str | None, dtype: torch.dtype) -> SentenceTransformer:
    """The model in a folder, with the pooling it brings or the one that was named."""
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
    offline: dict[str, Any] = {"local_files_only": True}
    try:
        if whole:
            settings = {"dtype": dtype}
            model = SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs=settings
            )
            _check_own_pooling(model, folder, pooling)
            return model
        encoder = Transformer(
            str(folder),
            model_kwargs=offline | {"dtype": dtype},
            processor_kwargs=dict(offline),
            config_kwargs=dict(offline),
        )
        pool = Pooling(encoder.get_embedding_dimension(), pooling)  # pyright: ignore[reportArgumentType]
        return SentenceTransformer(modules=[encoder, pool], device="cpu")
    except InputError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            "a model that sentence-transformers can load", f"{folder}: {first}", "check the folder"
        ) from error


def _check_own_pooling(model: SentenceTransformer, folder: Path, pooling: str | None) -> None:
    own = next((part.pooling_mode for part in model if isinstance(part, Pooling)), None)
    if pooling not in (None, own):
        raise InputError(
            f"no pooling beside the folder's own ({own})",
            f"pooling={pooling!r} for {folder}",
            "leave pooling out, or name the folder of the plain encoder",
        )


def _dim(model: SentenceTransformer) -> int:
    dim = model.get_embedding_dimension()
    if dim is None:
        raise InputError(
            "a model that pools its tokens to one vector",
            "modules " + ", ".join(type(part).__name__ for part in model),
            "add a pooling to its modules.json",
        )
    return dim


def _set_length(model: SentenceTransformer, max_length: int | None) -> None:
    """The length asked for; else the folder's, as far as the positions go."""
    if max_length is None:
        room = _positions(model)
        own = model.max_seq_length
        max_length = min(length for length in (room, own, 2**31) if length is not None)
    _check_length(model, max_length)
    model.max_seq_length = max_length


def _check_length(model: SentenceTransformer, max_length: int) -> None:
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


def _transformer(model: SentenceTransformer) -> Transformer:
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
    for module in _transformer(model).modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):  # RoBERTa and its kin count from the padding id up
            return table.num_embeddings - (
                0 if table.padding_idx is None else table.padding_idx + 1
            )
    limit = getattr(_transformer(model).config, "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None


def _set_normalize(model: SentenceTransformer, wanted: bool) -> None:
    """Unit norm as the last module, or no longer."""
    while len(model) and isinstance(model[-1], Normalize):
        del model[-1]
    if wanted:
        model.append(Normalize())


def _freeze_below(model: SentenceTransformer, count: int) -> None:
    """Gradient for the topmost layers and what comes after them alone."""
    encoder: nn.Module = _transformer(model).auto_model
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

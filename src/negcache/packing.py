"""Nested state as a JSON tree and a flat table of tensors, or as one tensor of bytes; no pickle."""

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from negcache.errors import InputError
from negcache.shapes import Tensor

Tree = Any
"""What json.dumps takes."""

TREE = "tree"
"""The name of the JSON tree among the tensors of a packed state."""


def pack(state: Any) -> tuple[Tree, dict[str, Tensor]]:
    """Split nested state into a JSON tree and named tensors; a tensor met twice is kept once.

    Dictionaries become lists of pairs, so that integer keys survive; tensors become their name,
    which says where they stood.

    Examples:
        >>> pack({"a": [1, torch.zeros(2)], 0: None})[0]
        {'dict': [['a', {'list': [1, {'tensor': '/a/1'}]}], [0, None]]}
    """
    tensors: dict[str, Tensor] = {}
    seen: dict[tuple[Any, ...], str] = {}

    def walk(value: Any, name: str) -> Tree:
        match value:
            case None | bool() | int() | float() | str():
                return value
            case dict():
                pairs = [[key, walk(inner, f"{name}/{key}")] for key, inner in value.items()]
                return {"dict": pairs}
            case list() | tuple():
                kind = "list" if isinstance(value, list) else "tuple"
                return {kind: [walk(each, f"{name}/{i}") for i, each in enumerate(value)]}
            case torch.Tensor():
                flat = value.detach().cpu().contiguous()
                place = (value.data_ptr(), value.shape, value.dtype, value.stride())
                if not value.numel() or place not in seen:
                    seen[place] = name if name not in tensors else f"{name}/{len(tensors)}"
                    tensors[seen[place]] = flat
                return {"tensor": seen[place]}
        raise InputError(
            "state of tensors, numbers, strings, lists and dictionaries",
            f"a {type(value).__name__}",
            "store plain data in state_dict",
        )

    return walk(state, ""), tensors


def unpack(tree: Tree, tensors: dict[str, Tensor]) -> Any:
    """The state that ``pack`` split."""
    if not isinstance(tree, dict):
        return tree
    ((kind, inner),) = tree.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: unpack(value, tensors) for key, value in inner}
    values = [unpack(value, tensors) for value in inner]
    return tuple(values) if kind == "tuple" else values


def merge(one: Tree, other: Tree) -> Tree:
    """The tree of a state of which some processes hold more than others; what both have, once.

    Examples:
        >>> merge(pack({"a": 1, "b": {0: 2}})[0], pack({"b": {1: 3}})[0]) == pack(
        ...     {"a": 1, "b": {0: 2, 1: 3}}
        ... )[0]
        True
    """
    if not (_is_dict(one) and _is_dict(other)):
        return one
    pairs, more = dict(one["dict"]), dict(other["dict"])
    both = {key: merge(value, more[key]) for key, value in pairs.items() if key in more}
    return {"dict": [[key, value] for key, value in (pairs | more | pairs | both).items()]}


def add_up(states: list[Any]) -> Any:
    """One state of those of several processes: dictionaries have the entries of all.

    Examples:
        >>> add_up([{"a": 1, "b": {0: 2}}, {"a": 1, "b": {1: 3}}])
        {'a': 1, 'b': {0: 2, 1: 3}}
    """
    if not isinstance(states[0], dict):
        return states[0]
    keys = dict.fromkeys(key for state in states for key in state)
    return {key: add_up([state[key] for state in states if key in state]) for key in keys}


def prune(tree: Tree, keep: Callable[[str], bool]) -> Tree:
    """The tree without the entries of dictionaries whose name is not to be kept."""
    if not isinstance(tree, dict):
        return tree
    ((kind, inner),) = tree.items()
    if kind == "tensor":
        return tree
    if kind == "dict":
        kept = [pair for pair in inner if not isinstance(pair[0], str) or keep(pair[0])]
        return {"dict": [[key, prune(value, keep)] for key, value in kept]}
    return {kind: [prune(value, keep) for value in inner]}


def tensor_names(tree: Tree) -> list[str]:
    """Of all tensors of a tree, each once."""
    if not isinstance(tree, dict):
        return []
    ((kind, inner),) = tree.items()
    if kind == "tensor":
        return [inner]
    values = [value for _, value in inner] if kind == "dict" else inner
    return list(dict.fromkeys(name for value in values for name in tensor_names(value)))


def _is_dict(tree: Tree) -> bool:
    return isinstance(tree, dict) and "dict" in tree


def to_bytes(state: Any) -> Tensor:
    """Nested state as one uint8 tensor, which every way of saving modules can hold.

    Inside it is a safetensors file, the JSON tree one of its tensors.

    Examples:
        >>> from_bytes(to_bytes({"clock": 3, "rows": torch.ones(1)}))
        {'clock': 3, 'rows': tensor([1.])}
    """
    tree, tensors = pack(state)
    text = torch.frombuffer(bytearray(json.dumps(tree).encode()), dtype=torch.uint8)
    return torch.frombuffer(bytearray(save(tensors | {TREE: text})), dtype=torch.uint8)


def from_bytes(packed: Tensor, *names: str) -> Any:
    """The state that ``to_bytes`` packed.

    Args:
        packed: by ``to_bytes``.
        names: that must be in it, which tells one module's state from another's.

    Raises:
        InputError: it is no such state, or damaged.
    """
    try:
        tensors = load(packed.cpu().contiguous().numpy().tobytes())
        state = unpack(json.loads(tensors.pop(TREE).numpy().tobytes()), tensors)
        missing = [name for name in names if name not in state]
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "a state that negcache packed", f"{error!r}", "load an undamaged checkpoint"
        ) from error
    if missing:
        raise InputError(
            f"a state with {', '.join(names)}",
            f"one without {', '.join(missing)}",
            "load it into a module of the kind that saved it",
        )
    return state

"""Stores, samplers and indexes on another device: plain objects that torch does not see."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from negcache.errors import InputError
from negcache.interfaces import Observer, Sampler, Store
from negcache.shapes import Tensor


def device_after(apply: Callable[[Tensor], Tensor], device: torch.device) -> torch.device:
    """Where ``nn.Module._apply`` brings what lies on ``device``: ``fn`` of ``to``, ``half`` ..."""
    return apply(torch.empty(0, dtype=torch.int64, device=device)).device


def move(thing: Any, device: torch.device) -> None:
    """Every tensor that a store, a sampler or an index holds, however deep, in place.

    Parameters and generators stay: they are their module's, and the noise is drawn on the host. So
    do the attributes that a class names in ``on_host``. The table of a store may refuse.
    """
    table = getattr(getattr(thing, "store", None), "table", None)
    if table is not None and hasattr(table, "check_device"):
        table.check_device(device)
    _Mover(device).within(thing)


class _Mover:
    """Brings each object and each tensor to the device once: what is shared stays shared."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.moved: dict[int, tuple[Any, Any]] = {}  # of each, with it, so that no id is reused

    def within(self, thing: Any) -> None:
        """The attributes of an object."""
        on_host = getattr(thing, "on_host", ())
        for name, value in list(vars(thing).items()):
            if name not in on_host:
                vars(thing)[name] = self.of(value)

    def of(self, value: Any) -> Any:
        """What stands for a value on the device."""
        if id(value) not in self.moved:
            self.moved[id(value)] = value, value  # it may hold itself
            self.moved[id(value)] = value, self._made(value)
        return self.moved[id(value)][1]

    def _made(self, value: Any) -> Any:
        match value:
            case nn.Parameter():
                return value
            case torch.Tensor():
                return _brought(value, self.device)
            case nn.Module():
                return value.to(self.device)
            case WeakValueDictionary():
                for inner in list(value.values()):
                    self.of(inner)
            case Mapping():
                return {key: self.of(inner) for key, inner in value.items()}
            case list():
                return [self.of(inner) for inner in value]
            case tuple():
                inner = [self.of(one) for one in value]
                return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
            case torch.device():
                return self.device
            case _ if _ours(value):
                self.within(value)
        return value


def _brought(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device. Raises InputError where there is nothing to bring."""
    if tensor.is_meta and device.type != "meta":
        raise InputError(
            "a sampler that was built with its data",
            f"a tensor of shape {tuple(tensor.shape)} on the meta device",
            'leave torch.device("meta") before you build it; SoftmaxHead(..., device="meta") '
            "builds a table without data and a sampler with it",
        )
    return tensor.to(device)


def _ours(value: Any) -> bool:
    """Whether it is part of a sampler: one of this library's objects, or a user's in its place."""
    known = type(value).__module__.partition(".")[0] == __name__.partition(".")[0]
    return hasattr(value, "__dict__") and (known or isinstance(value, Sampler | Store | Observer))

"""A store as draws and indexes read it: in slots, scored as it looks today."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.interfaces import Store
from negcache.messages import Request
from negcache.ops.quantized import rounded
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.shards import Masses
from negcache.ops.two_stage import Scan, draw_rows
from negcache.shapes import Float, Float64, Int, Tensor
from negcache.stores.integer_masses import integer_masses


def to_slots(exclude: Exclusion, store: Store) -> Exclusion:
    """Exclusions in slots; items without a slot cannot be drawn anyway."""
    slots = store.slots(exclude.ids)
    return exclude if slots is exclude.ids else exclude.renumbered(slots)


def scored_rows(request: Request, store: Store) -> ScoredRows:
    """The rows of a store under a request's score, its exclusions in slots."""
    queries, exclude = project_queries(store, request.queries), to_slots(request.exclude, store)
    if store.reencoder is None:
        chunks, rows = store.chunks, store.rows
    else:

        def rows(slots: Tensor) -> Tensor:
            return project_items(store, store.rows(slots))

        def chunks(size: int) -> Iterator[tuple[int, Tensor]]:
            return ((first, project_items(store, block)) for first, block in store.chunks(size))

    found = ScoredRows(queries, request.score, store.num_rows, store.valid, exclude, chunks, rows)
    weights = store.log_weights
    if weights is not None:
        found = replace(found, log_weights=weights.to(queries.dtype))
    if store.quantized is not None:
        found = replace(found, masses=partial(integer_masses, store.quantized))
    return found


def project_queries(store: Store, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
    """Queries as the rows of the store are scored against them.

    Where these are kept as int8 the queries are rounded alike: whatever way a score is worked out,
    it is that of the same numbers.
    """
    if store.reencoder is not None:
        return store.reencoder.queries(queries)
    return queries if store.quantized is None else rounded(queries)


def project_items(store: Store, rows: Float[Tensor, "*n C"]) -> Float[Tensor, "*n K"]:
    """Rows of the store, or centres of some, as they are scored today."""
    return rows if store.reencoder is None else store.reencoder.items(rows)


def embeddings(store: Store, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
    """Embeddings of rows that have been written, approximate where the store keeps coordinates."""
    rows = store.rows(slots)
    return rows if store.reencoder is None else store.reencoder.full(rows)


class Drawn(NamedTuple):
    """Items drawn from the rows of all processes, and their scores.

    Args:
        ids: arbitrary where the query has no row left.
        logits: of the drawn rows; -inf there.
        log_mass: logsumexp of the scores of all rows.
    """

    ids: Int[Tensor, "B m"]
    logits: Float[Tensor, "B m"]
    log_mass: Float[Tensor, "B"]


def draw_items(
    store: Store, rows: ScoredRows, scanned: Scan, noise: Float64[Tensor, "B m 2"]
) -> Drawn:
    """Independent draws from the softmax of the scores of these rows, of every process'."""
    mesh, masses = store.shard.mesh, Masses(store.shard.mesh, scanned.log_mass)
    turns = masses.turns(noise)
    found = draw_rows(rows, scanned, turns.uniforms)
    ids = mesh.from_owners(store.ids(found.slots), turns.here)
    logits = mesh.from_owners(found.logits, turns.here)
    nothing = (masses.log_total == -torch.inf)[:, None]
    return Drawn(ids, logits.masked_fill(nothing, -torch.inf), masses.log_total)


def refuse_shards(store: Store, what: str, remedy: str) -> None:
    """Refuse a sampler that several processes cannot share. Raises InputError."""
    if store.shard.mesh.size > 1:
        raise InputError(
            f"one process for {what}", f"a store shared by {store.shard.mesh.size}", remedy
        )


def refuse_weights(store: Store, what: str) -> None:
    """Refuse a sampler whose partition would leave the weights of rows out. Raises InputError."""
    if store.log_weights is not None:
        raise InputError(
            f"a store whose rows stand for as many items each, for {what}",
            f"a {type(store).__name__} with weights of its rows",
            "use CachedSoftmax, DynamicIndex or a kernel sampler, or row_weight='none'",
        )


def refuse_coordinates(store: Store, what: str) -> None:
    """An index that follows whole rows would not hear when coordinates are read anew.

    Raises:
        InputError: the store keeps coordinates.
    """
    if store.reencoder is not None:
        raise InputError(
            f"a store of whole embeddings for {what}",
            type(store).__name__,
            "use DynamicIndex or CachedSoftmax over coordinates",
        )

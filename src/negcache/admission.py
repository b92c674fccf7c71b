"""What a batch has to be, before anything is drawn for it."""

import torch

from negcache.errors import InputError
from negcache.shapes import Tensor
from negcache.validation import check_finite


def admit(
    queries: Tensor,
    positives: Tensor,
    query_ids: Tensor | None,
    negatives: Tensor | None,
    num_items: int,
    known: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The ids of a batch as int64, a positive that a row names twice once, the others -1.

    A batch that is made anew inside a backward pass is refused: it would draw anew.

    Args:
        known: whether there are known positives, which ``query_ids`` are needed for.

    Raises:
        InputError: queries that cannot be scored, shapes that do not fit, ids that are none, or
            none of the corpus.
    """
    _check_outside_backward()
    check_embeddings(queries)
    for ids in (positives, query_ids, negatives):
        if ids is not None and not isinstance(ids, Tensor):
            raise InputError("ids as tensors", type(ids).__name__, "torch.as_tensor(ids)")
    _check_shapes(queries, positives, query_ids, negatives)
    if known and query_ids is None:
        raise InputError(
            "query_ids with known_positives", "query_ids=None", "pass the batch's query rows"
        )
    positives = _whole("positives", positives)
    query_ids = None if query_ids is None else _whole("query_ids", query_ids)
    negatives = None if negatives is None else _whole("negatives", negatives)
    _check_positives(positives, num_items)
    named = [("positives", positives, 1 - positives.ndim), ("negatives", negatives, -1)]
    for name, ids, least in named:
        if ids is not None and not bool(((ids >= least) & (ids < num_items)).all()):
            raise InputError(
                f"{name} between {least} and {num_items - 1}",
                f"ids from {int(ids.min())} to {int(ids.max())}",
                "ids are row numbers of the corpus",
            )
    return _each_once(positives) if positives.ndim == 2 else positives, query_ids, negatives


def admit_excluded(queries: Tensor, exclude: Tensor | None) -> Tensor | None:
    """What may not stand for each query, as int64. Raises InputError: it is no [B, x]."""
    if exclude is None:
        return None
    if exclude.ndim != 2 or len(exclude) != len(queries):
        raise InputError(
            f"exclude of shape ({len(queries)}, x), padded with -1",
            f"{tuple(exclude.shape)}",
            "pass one row for each query of the batch",
        )
    return _whole("exclude", exclude)


def _whole(name: str, ids: Tensor) -> Tensor:
    """Ids of any signed width as int64: narrower sums and products would overflow."""
    if ids.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        raise InputError(f"{name} as ids", f"{ids.dtype}", "pass ids, not flags")
    return ids.long()


def _check_positives(positives: Tensor, num_items: int) -> None:
    if positives.ndim == 2 and positives.shape[1] >= num_items:
        raise InputError(
            f"fewer positives in a row than the {num_items} items",
            f"{positives.shape[1]} columns",
            "pass the ids of each query's positives padded with -1, not a multi-hot row",
        )
    if positives.ndim == 2 and not bool((positives >= 0).any(dim=1).all()):
        raise InputError("a positive for every query", "a row of -1", "leave the query out")


def _each_once(ids: Tensor) -> Tensor:
    """[B, p] with -1 in place of what stands further left in its row."""
    ordered, order = ids.sort(dim=1, stable=True)
    ordered[:, 1:].masked_fill_(ordered[:, 1:] == ordered[:, :-1], -1)
    return torch.empty_like(ids).scatter_(1, order, ordered)


def check_embeddings(queries: Tensor, name: str = "queries") -> None:
    """Real numbers, all finite. Raises InputError.

    Half precision is taken: scores are of float32 at least.
    """
    if not isinstance(queries, Tensor) or not queries.is_floating_point():
        got = queries.dtype if isinstance(queries, Tensor) else type(queries).__name__
        raise InputError(
            f"{name} as a tensor of floating point numbers",
            f"{got}",
            "pass the embeddings that your tower gives",
        )
    if queries.is_meta:
        raise InputError(f"{name} with numbers", "a tensor on the meta device", "leave it first")
    if queries.ndim == 2:
        check_finite(queries, what=name)


def _check_outside_backward() -> None:
    """Raises InputError where ``torch.utils.checkpoint`` makes a loss a second time."""
    if torch._C._current_graph_task_id() != -1:
        raise InputError(
            "the loss outside torch.utils.checkpoint",
            "a loss that is made anew in the backward pass",
            "checkpoint the towers: made a second time the loss would draw other negatives; "
            "mini_batch_size= does the same for items",
        )


def _check_shapes(
    queries: Tensor, positives: Tensor, query_ids: Tensor | None, negatives: Tensor | None
) -> None:
    wrong = [
        f"{name} of shape {tuple(given.shape)}"
        for name, given, dims in (
            ("queries", queries, (2,)),
            ("positives", positives, (1, 2)),
            ("query_ids", query_ids, (1,)),
            ("negatives", negatives, (2,)),
        )
        if given is not None and (given.ndim not in dims or len(given) != len(queries))
    ]
    if wrong or not len(queries):
        raise InputError(
            "queries [B, D], positives [B] or [B, p], query_ids [B], negatives [B, h], B >= 1",
            ", ".join(wrong) or "an empty batch",
            "pass one row for each query of the batch",
        )

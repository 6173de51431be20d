"""Exact nearest neighbours by cosine similarity, in bounded memory, and their vote for a class."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.arguments import require_classes, require_features, require_one_width
from pipeline.base.errors import ArgumentError, DataError
from pipeline.base.progress import Progress, Silent


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of each query, nearest first: cosines (Q, k) and indices in the bank (Q, k)."""

    similarities: Tensor
    indices: Tensor


def nearest(
    queries: Tensor,
    bank: Tensor,
    *,
    k: int,
    device: torch.device,
    exclude_self: bool = False,
    queries_at_once: int = 1024,
    bank_at_once: int = 16_384,
    progress: Progress | None = None,
) -> Neighbours:
    """Find the k rows of `bank` (N, D) with the largest cosine to each of `queries` (Q, D).

    With `exclude_self`, the queries are the bank, and no row is its own neighbour. A zero
    vector has cosine 0 with everything. Besides the result, memory holds one block of
    `queries_at_once` x `bank_at_once`, so the bank may be larger than the device's memory. If it
    fits into half of a GPU's free memory, it is sent once, otherwise for every block of queries.
    Raises DataError if the bank offers fewer than k neighbours, if rows are not finite, or if
    queries and bank do not go together.
    """
    for rows in (queries, bank):
        require_features(rows)
    require_one_width(queries, bank)
    if k < 1 or (exclude_self and len(queries) != len(bank)):
        raise ArgumentError(
            f"Expected a k of at least 1, and the bank itself as queries if they are excluded; "
            f"found k = {k}, {len(queries)} queries and a bank of {len(bank)}."
        )
    offered = len(bank) - exclude_self
    if offered < k:
        raise DataError(f"Expected at least {k} images as neighbours; found {offered}.")
    progress, parts = progress or Silent(), []
    if _fits(bank, device):
        bank = bank.to(device)
    for block, first in _blocks(queries, queries_at_once):
        parts.append(_nearest_of_block(block, first, bank, k, device, exclude_self, bank_at_once))
        progress.advance(len(block))
    return Neighbours(
        torch.cat([part.similarities for part in parts]),
        torch.cat([part.indices for part in parts]),
    )


def vote(
    neighbours: Neighbours,
    bank_classes: Tensor,
    *,
    classes: int,
    k: int,
    temperature: float | Literal["uniform"],
) -> Tensor:
    """Return each class's share of the votes (Q, classes) of the k nearest neighbours.

    A vote has weight exp(cosine / temperature), or 1 if `temperature` is "uniform".
    `bank_classes` (N,) are the class indices of the rows that `neighbours` points to. Raises
    ArgumentError if there are fewer than k neighbours, or the temperature is not above 0.
    """
    require_classes(bank_classes, "labels", rows=len(bank_classes), classes=classes)
    found = neighbours.indices.shape[1]
    if not 1 <= k <= found or (temperature != "uniform" and not temperature > 0):
        raise ArgumentError(
            f"A vote is of 1 to {found} neighbours, at a temperature above 0 or uniform; found "
            f"k = {k} and {temperature}."
        )
    scores = torch.zeros(len(neighbours.indices), classes)
    similarities, indices = neighbours.similarities[:, :k], neighbours.indices[:, :k]
    if temperature == "uniform":
        weights = torch.ones_like(similarities)
    else:
        # Relative to the nearest one: exp(1 / 0.01) is too large for float32.
        weights = ((similarities - similarities[:, :1]) / temperature).exp()
    scores.scatter_add_(1, bank_classes.cpu()[indices], weights)
    return scores / scores.sum(dim=1, keepdim=True)


def _fits(bank: Tensor, device: torch.device) -> bool:
    """Whether a GPU has room for the bank; on the CPU it is used where it is."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return bank.nbytes <= free / 2


def _blocks(rows: Tensor, count: int) -> list[tuple[Tensor, int]]:
    """Return views of `count` rows each, with the index of their first row."""
    return [(rows[first : first + count], first) for first in range(0, len(rows), count)]


def _nearest_of_block(
    queries: Tensor,
    first_query: int,
    bank: Tensor,
    k: int,
    device: torch.device,
    exclude_self: bool,
    bank_at_once: int,
) -> Neighbours:
    unit = _unit(queries, device)
    own = torch.arange(first_query, first_query + len(queries), device=device)
    best = unit.new_empty(len(queries), 0)
    rows = own.new_empty(len(queries), 0)
    for block, first in _blocks(bank, bank_at_once):
        cosines = unit @ _unit(block, device).T  # (queries, block)
        if exclude_self:
            place = own - first
            inside = ((place >= 0) & (place < len(block))).nonzero().flatten()
            cosines[inside, place[inside]] = -torch.inf
        found = cosines.topk(min(k, len(block)), dim=1)
        best, rows = _merge(best, rows, found.values, found.indices + first, k)
    return Neighbours(best.cpu(), rows.cpu())


def _merge(
    best: Tensor, rows: Tensor, found: Tensor, found_rows: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    candidates = torch.cat([best, found], dim=1)
    top = candidates.topk(min(k, candidates.shape[1]), dim=1)
    return top.values, torch.cat([rows, found_rows], dim=1).gather(1, top.indices)


def _unit(rows: Tensor, device: torch.device) -> Tensor:
    """Return rows of length 1, or 0, as float32; their scale may be any that their type holds."""
    wide = rows.to(device, torch.promote_types(rows.dtype, torch.float32))
    limit = -math.log2(torch.finfo(wide.dtype).tiny)
    exponents = wide.abs().amax(dim=1, keepdim=True).log2().floor().clamp(-limit, limit)
    return F.normalize((wide / exponents.exp2()).float(), dim=1)

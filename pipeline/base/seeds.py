"""Seeds derived from several seeds, and generators with such seeds."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

Numbers = npt.NDArray[np.float64]


def seed_from(*seeds: int) -> int:
    """Return one seed derived from several; streams of different tuples do not overlap."""
    text = ",".join(str(seed) for seed in seeds).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(*seeds: int) -> torch.Generator:
    """Return a CPU generator seeded by `seed_from(*seeds)`."""
    return torch.Generator().manual_seed(seed_from(*seeds))


def numbers_of(rows: npt.ArrayLike, count: int, *seeds: int) -> Numbers:
    """Return `count` numbers in [0, 1) for each of `rows` (B,), as (B, count), float64.

    Those of a row depend only on the row and the seeds, whatever the other rows are. They are the
    outputs of SplitMix64 (Steele, Lea and Flood, 2014) with a seed for each row.
    """
    start = np.uint64(seed_from(*seeds))
    rows = np.asarray(rows, dtype=np.uint64)
    places = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        state = _mixed(_mixed(start + rows * _GOLDEN)[:, None] + places * _GOLDEN)
    drawn: Numbers = np.multiply(state >> np.uint64(11), 2.0**-53, dtype=np.float64)
    return drawn


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(bits: "npt.NDArray[np.uint64]") -> "npt.NDArray[np.uint64]":
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from PyTorch's CPU generator as if seeded by `seed`, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave PyTorch's generators, which belong to the caller, as they were before.

    Those of GPUs that come into use only here get the seed of the CPU's generator, as they would
    have had without this.
    """
    state = torch.get_rng_state()
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    states = torch.cuda.get_rng_state_all() if used else []
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if used:
            torch.cuda.set_rng_state_all(states)
        else:
            torch.cuda.manual_seed_all(torch.initial_seed())

"""Seeds derived from several seeds, and generators with such seeds."""

import hashlib

import torch


def seed_from(*seeds: int) -> int:
    """Return one seed derived from several; streams of different tuples do not overlap."""
    text = ",".join(str(seed) for seed in seeds).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(*seeds: int) -> torch.Generator:
    """Return a CPU generator seeded by `seed_from(*seeds)`."""
    return torch.Generator().manual_seed(seed_from(*seeds))

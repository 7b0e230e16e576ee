"""Random generators keyed by (seed, epoch, case), so that nothing depends on workers, batches or a resume."""

import hashlib

import numpy as np


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """A generator that depends on the seed and the key alone, on every machine.

    Args:
        seed: The run's seed.
        key: Purpose of the numbers, for example ``(epoch, case_id)``.

    Example:
        >>> float(generator(0, 3, "case-7").random()) == float(generator(0, 3, "case-7").random())
        True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_entropy(seed, key))))


def torch_seed(seed: int, *key: int | str) -> int:
    """A 63-bit seed for a ``torch.Generator`` that depends on the seed and the key alone."""
    return _entropy(seed, key) >> 65


def _entropy(seed: int, key: tuple[int | str, ...]) -> int:
    text = repr((int(seed), *(part if isinstance(part, str) else int(part) for part in key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")

"""Random numbers depend on the seed and the key alone."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hilum.randomness import generator, torch_seed

keys = st.lists(st.integers(0, 9) | st.sampled_from(["a", "b", "case-7", "1", "noise"]), max_size=3).map(tuple)


@given(st.integers(0, 3), keys)
def test_the_same_key_gives_the_same_numbers(seed, key):
    assert np.array_equal(generator(seed, *key).random(5), generator(seed, *key).random(5))
    assert torch_seed(seed, *key) == torch_seed(seed, *key)


@given(st.integers(0, 3), keys, st.integers(0, 3), keys)
def test_another_seed_or_key_gives_other_numbers(seed, key, other_seed, other_key):
    if (seed, *map(repr, key)) != (other_seed, *map(repr, other_key)):
        assert generator(seed, *key).random() != generator(other_seed, *other_key).random()
        assert torch_seed(seed, *key) != torch_seed(other_seed, *other_key)


@given(st.integers(0, 2**40), keys)
def test_a_torch_seed_fits_into_a_signed_word(seed, key):
    assert 0 <= torch_seed(seed, *key) < 2**63


def test_a_number_and_its_text_are_different_keys():
    assert generator(0, 1).random() != generator(0, "1").random()


def test_nothing_global_is_seeded_or_read():
    np.random.seed(1)  # noqa: NPY002
    first = generator(0, "case").random()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    generator(0, "case").random(100)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert generator(0, "case").random() == first


def test_the_numbers_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        "from hilum.randomness import generator, torch_seed; print(generator(3, 1, 'x').random(), torch_seed(3, 'x'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == [str(generator(3, 1, "x").random()), str(torch_seed(3, "x"))]


def test_the_numbers_stay_what_they_were_in_the_first_release():
    assert torch_seed(0, 3, "case-7", "augment") == 7784344247279117825

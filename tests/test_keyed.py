from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssbench import keyed

parts = st.lists(st.one_of(st.integers(), st.text(st.characters(codec="utf-8", exclude_characters="\x1f"))), max_size=4)


@given(parts, parts)
def test_keys_differ_where_parts_differ(a: list[str | int], b: list[str | int]) -> None:
    same = [(type(x), x) for x in a] == [(type(x), x) for x in b]
    assert (keyed.key(*a) == keyed.key(*b)) == same


@given(parts, st.integers(1, 128))
def test_keys_have_as_many_bits_as_asked_for(a: list[str | int], bits: int) -> None:
    assert 0 <= keyed.key(*a, bits=bits) < 2**bits


def test_type_and_order_count() -> None:
    assert len({keyed.key("1", "2"), keyed.key("2", "1"), keyed.key(1, 2), keyed.key(1, "2"), keyed.key("12")}) == 5


def test_values_are_the_same_on_every_machine_and_in_every_release() -> None:
    # Split lists and results depend on these: a change here changes every run that was ever recorded.
    assert keyed.key(0, 3, "2007_000032", "weak", "crop") == 2890439607706396717
    draws = keyed.rng(0, 3, "2007_000032", "weak", "crop").integers(0, 1000, 4)
    assert draws.tolist() == [121, 608, 566, 945]


def test_draws_do_not_depend_on_what_was_drawn_before() -> None:
    first = keyed.rng("a", 1).random(8)
    keyed.rng("b", 2).random(100)
    assert np.array_equal(keyed.rng("a", 1).random(8), first)
    assert not np.array_equal(keyed.rng("a", 2).random(8), first)


def test_torch_generators_follow_the_same_keys() -> None:
    torch.manual_seed(5)
    one = torch.rand(4, generator=keyed.torch_generator(0, "x"))
    state = torch.random.get_rng_state()
    assert torch.equal(torch.rand(4, generator=keyed.torch_generator(0, "x")), one)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(torch.rand(4, generator=keyed.torch_generator(0, "y")), one)


def test_keys_do_not_depend_on_the_hash_seed_of_the_interpreter() -> None:
    code = "from ssbench.keyed import key; print(key('a', 1))"
    found = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {f"{keyed.key('a', 1)}\n"}


def test_a_name_that_is_no_text_has_a_key_too() -> None:
    """`os.fsdecode` gives such names lone surrogates, which do not encode as UTF-8."""
    assert keyed.key("caf\udce9") != keyed.key("cafe")

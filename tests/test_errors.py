from __future__ import annotations

import pickle

import pytest

from ssbench import errors
from ssbench.errors import DataError, SsbenchError, UsageError, nearest

CODES = {
    "UsageError": 2,
    "RecipeError": 3,
    "DataError": 4,
    "GateError": 5,
    "RunsFailed": 6,
    "HardwareError": 7,
    "Stopped": 75,
    "Interrupted": 130,
}


def test_exit_codes_are_those_of_the_contract() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, SsbenchError)]
    assert {cls.__name__: cls.code for cls in classes} == {"SsbenchError": 1, **CODES}


def test_an_error_reads_what_where_fix() -> None:
    error = DataError("labeled.txt has 91 ids, manifest says 92", "splits/a/labeled.txt", "ssbench prepare a")
    assert str(error).splitlines() == [
        "labeled.txt has 91 ids, manifest says 92",
        "  where: splits/a/labeled.txt",
        "  fix:   ssbench prepare a",
    ]
    assert str(UsageError("only this")) == "only this"


class OddError(SsbenchError):
    code = 9

    def __init__(self, step: int, ids: tuple[str, ...]) -> None:
        super().__init__(f"step {step}", "there", "mend it")
        self.step, self.ids = step, ids


@pytest.mark.parametrize("error", [UsageError("a", "b", "c"), DataError("a"), OddError(3, ("x", "y"))])
def test_errors_survive_the_way_back_from_a_worker_process(error: SsbenchError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  made on the line itself
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert (str(again), again.args, again.code) == (str(error), error.args, error.code)


def test_nearest_names_the_closest_or_lists_what_there_is() -> None:
    assert nearest("voc/clasic/1_16", ["voc/classic/1_16", "toy/ours/full"]) == "did you mean 'voc/classic/1_16'?"
    assert nearest("zzz", ["beta", "alpha"]) == "known: alpha, beta"
    assert nearest("zzz", [f"n{i:02}" for i in range(14)]).endswith("n11 and 2 more")
    assert nearest("zzz", []) == "known: none"

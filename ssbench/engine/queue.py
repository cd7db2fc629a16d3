"""Several runs after one another: what a recipe or a table asks for, done once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssbench.engine.run import Places
from ssbench.errors import SsbenchError, Stopped, UsageError
from ssbench.recipe import Division

QUICK_SPLIT = "toy/ours/1_8"


@dataclass(frozen=True)
class Cell:
    """One run to do: recipe x split x seed (x overrides)."""

    recipe: str
    split: str
    seed: int
    overrides: tuple[str, ...] = ()
    quick: bool = False
    division: Division | None = None

    def __str__(self) -> str:
        return " ".join([self.recipe, *self.overrides, self.split, f"seed {self.seed}"])


@dataclass(frozen=True)
class Done:
    """What became of a cell: a record, or an error; `repeated` when it had been done before."""

    cell: Cell
    record: dict[str, Any] | None = None
    error: SsbenchError | None = None
    repeated: bool = False

    def __str__(self) -> str:
        if self.error is not None:
            return f"failed {self.cell}: {self.error.what}"
        if self.cell.quick:
            return f"{self.cell} runs (a quick run: toy data, a small net, a few steps; its numbers mean nothing)"
        assert self.record is not None  # noqa: S101  either or
        best, last = self.record["scores"]["best"], self.record["scores"]["last"]
        state = "was done" if self.repeated else "done"
        scores = f"best {best['report']:.2f} (epoch {best['epoch'] + 1}), last {last['report']:.2f}"
        return f"{state} {self.cell}: {self.record['metric']} {scores}"

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench run --json`."""
        state = "failed" if self.error else "was done" if self.repeated else "done"
        return {
            "recipe": self.cell.recipe,
            "split": self.cell.split,
            "seed": self.cell.seed,
            "state": state,
            "error": str(self.error) if self.error else None,
            "scores": self.record["scores"] if self.record else None,
            "metric": self.record["metric"] if self.record else None,
        }

    def as_error(self) -> SsbenchError:
        """The error, for a single run's exit code."""
        assert self.error is not None  # noqa: S101  asked of failed ones only
        return self.error


def cells(
    targets: Sequence[str],
    splits: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    quick: bool,
    places: Places,
    division: Division | None = None,
) -> list[Cell]:
    """The runs behind recipes and tables, each once, in order.

    A recipe needs `--split`; a table knows its splits, of which `--split` selects some. Quick runs take the toy split.

    Raises:
        UsageError: a recipe without a split, an unknown split, or a table none of whose cells has a recipe yet.
        RecipeError: a recipe that is wrong, before any of them runs.
    """
    from ssbench.recipe import is_table_name, load

    if quick:
        _toy(places)
    wanted: list[Cell] = []
    for target in targets:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            runs = _of_table(target, splits, places, quick)
        else:
            load(target, overrides, quick, division, places.data)
            runs = [(target, (), split) for split in _named(target, splits, places, quick)]
        wanted += [Cell(r, s, seed, (*own, *overrides), quick, division) for seed in seeds for r, own, s in runs]
    return list(dict.fromkeys(wanted))


def _named(target: str, splits: Sequence[str], places: Places, quick: bool) -> Sequence[str]:
    """The splits asked for, each of which must be there."""
    from ssbench.data.partition import Partition

    if not splits and not quick:
        raise UsageError(f"'{target}' needs a split", "--split", "ssbench list splits")
    for split in splits:
        Partition.read(split, places.data)
    return splits or [QUICK_SPLIT]


def work(wanted: Sequence[Cell], places: Places, device: str | None, jobs: int = 1) -> list[Done]:
    """Do the cells in order, `jobs` at a time; one failed run does not stop the others, a request to stop does.

    Raises:
        Stopped: a signal came (exit code 75).
    """
    from ssbench.engine.console import Bars, say
    from ssbench.engine.distributed import join

    if jobs > 1 and len(wanted) > 1:
        from ssbench.engine.workers import side_by_side

        return side_by_side(wanted, places, device, jobs)
    team = join(device)
    done: list[Done] = []
    with Bars(show=team.leads, tell=say if team.leads else _silent) as bars:
        for at, cell in enumerate(wanted, 1):
            if len(wanted) > 1 and team.leads:
                say(f"[{at}/{len(wanted)}] {cell}")
            done.append(do_one(cell, places, team, bars))
    return done


def _silent(_: str) -> None:
    """Where the lines of all processes but the first go."""


def do_one(cell: Cell, places: Places, team: Any, bars: Any) -> Done:
    """One cell, its error caught; only Stopped passes, and with several processes what ended one of them alone."""
    import traceback

    from ssbench.engine.console import say
    from ssbench.engine.distributed import Parted
    from ssbench.engine.run import run
    from ssbench.recipe import load

    try:
        recipe = load(cell.recipe, cell.overrides, cell.quick, cell.division, places.data)
        record, repeated = run(recipe, cell.split, cell.seed, places, team, bars)
    except (Stopped, Parted):
        raise
    except SsbenchError as error:
        say(f"error: {error}")
        return Done(cell, error=error)
    except Exception as error:  # a fault, or memory ran out: the other runs may still be done
        traceback.print_exc()
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        return Done(cell, error=SsbenchError(what, str(cell), "see the lines above; if it is a fault, report them"))
    return Done(cell, record, repeated=repeated)


def _of_table(name: str, splits: Sequence[str], places: Places, quick: bool) -> list[tuple[str, tuple[str, ...], str]]:
    """(recipe, overrides, split) of every run behind a table that we have a recipe for."""
    from ssbench.report.store import ResultStore
    from ssbench.report.table import PaperTable

    filled = PaperTable.read(name).fill(ResultStore(places.results))
    runs = [
        (cell.recipe, cell.overrides, QUICK_SPLIT if quick else cell.split)
        for cell in filled.wanted()
        if cell.recipe and cell.split and (not splits or cell.split in splits)
    ]
    if not runs:
        what = f"no cell of {name} has a recipe yet" + (" on these splits" if splits else "")
        raise UsageError(what, "table", f"ssbench table {name} shows the state of each cell")
    return list(dict.fromkeys(runs))


def _toy(places: Places) -> None:
    """Quick runs read the toy data, which are made where they are missing."""
    from ssbench.data.prepare import prepare
    from ssbench.engine.console import say

    if not (places.data / "toy" / "ledger.json").is_file():
        say("making the toy data, once")
        prepare("toy", places.data)

"""Several runs after one another: what a recipe or a table asks for, done once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssbench.engine.run import Places
from ssbench.errors import SsbenchError, Stopped, UsageError


@dataclass(frozen=True)
class Cell:
    """One run to do: recipe x split x seed (x overrides)."""

    recipe: str
    split: str
    seed: int
    overrides: tuple[str, ...] = ()
    quick: bool = False

    def __str__(self) -> str:
        return f"{self.recipe} {self.split} seed {self.seed}"


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
        assert self.record is not None  # noqa: S101  either or
        best, last = self.record["scores"]["best"], self.record["scores"]["last"]
        state = "was done" if self.repeated else "done"
        return f"{state} {self.cell}: {self.record['metric']} best {best['report']:.2f} (epoch {best['epoch'] + 1}), last {last['report']:.2f}"

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
    targets: Sequence[str], splits: Sequence[str], seeds: Sequence[int], overrides: Sequence[str], quick: bool,
    places: Places,
) -> list[Cell]:
    """The runs behind recipes and tables, each once, in order.

    A recipe needs `--split`; a table knows its splits, of which `--split` selects some. Quick runs take the toy split.

    Raises:
        UsageError: a recipe without a split, or a table none of whose cells has a recipe yet.
    """
    from ssbench.recipe import is_table_name

    wanted: list[Cell] = []
    for target in targets:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            pairs = _of_table(target, splits)
        elif quick:
            _toy(places)
            pairs = [(target, split) for split in (splits or ["toy/ours/1_8"])]
        elif splits:
            pairs = [(target, split) for split in splits]
        else:
            raise UsageError(f"'{target}' needs a split", "--split", "ssbench list splits")
        wanted += [Cell(r, s, seed, tuple(overrides), quick) for seed in seeds for r, s in pairs]
    return list(dict.fromkeys(wanted))


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
    with Bars(show=team.leads) as bars:
        for at, cell in enumerate(wanted, 1):
            if len(wanted) > 1 and team.leads:
                say(f"[{at}/{len(wanted)}] {cell}")
            done.append(do_one(cell, places, team, bars))
    return done


def do_one(cell: Cell, places: Places, team: Any, bars: Any) -> Done:
    """One cell, its error caught; only Stopped passes."""
    from ssbench.engine.console import say
    from ssbench.engine.run import run
    from ssbench.recipe import load

    try:
        recipe = load(cell.recipe, cell.overrides, cell.quick)
        record, repeated = run(recipe, cell.split, cell.seed, places, team, bars)
    except Stopped:
        raise
    except SsbenchError as error:
        say(f"error: {error}")
        return Done(cell, error=error)
    return Done(cell, record, repeated=repeated)


def _of_table(name: str, splits: Sequence[str]) -> list[tuple[str, str]]:
    from ssbench.report.table import PaperTable

    pairs = [p for p in PaperTable.read(name).runs() if not splits or p[1] in splits]
    if not pairs:
        raise UsageError(f"no cell of {name} has a recipe yet" + (" on these splits" if splits else ""), "table",
                         f"ssbench table {name} shows the state of each cell")
    return list(dict.fromkeys(pairs))


def _toy(places: Places) -> None:
    """Quick runs read the toy data, which are made where they are missing."""
    from ssbench.data.prepare import prepare

    if not (places.data / "toy" / "ledger.json").is_file():
        prepare("toy", places.data)

"""Analyses of trained runs: what a table shows of a run besides its score, one JSON file each beside the run's record.

`<results>/<recipe>/<split>/analysis-<kind>-seed<k>.json`. An analysis names the key of the run whose networks it looked
at, so it counts only beside the record of that very run. A newer analysis replaces an older one: unlike a score it is
computed from networks that stand, and doing it again gives the same numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssbench.errors import DataError
from ssbench.files import read_model, write_json
from ssbench.results.store import ResultStore

AnalysisKind = Literal["patches", "boxes", "pixels"]
"""patches: MPMC's Table 4. boxes, pixels: WPL's supplement Table 1, of the detector and of pseudo-labels by class."""
Text = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Points = Annotated[float, Field(ge=-100.001, le=100.001, allow_inf_nan=False)]
"""A share in percent, or a difference of two."""


class Analysis(BaseModel):
    """One analysis. Unknown fields, of other versions, are ignored.

    key: of the run analysed; beside: the stored name and the key of the other run that was read with it, if any.
    values: by entry (a class, or a bin of patches) and quantity; None where nothing was counted. counts: what the
    values are shares of, by entry. settings: what was counted how.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    version: Literal[1] = Field(default=1, alias="schema")
    kind: AnalysisKind
    recipe: Text
    split: Text
    seed: Count
    key: Text
    beside: tuple[Text, Text] | None = Field(default=None, strict=False)
    subset: Text
    settings: dict[Text, Text | int | float | bool | None] = {}
    values: dict[Text, dict[Text, Points | None]]
    counts: dict[Text, dict[Text, Count]] = {}
    finished: Text = ""

    def value(self, entry: str, quantity: str) -> float | None:
        """The number of an entry, whose name may differ in spaces and capitals; None where there is none."""
        by_name = {_plain(name): quantities for name, quantities in self.values.items()}
        return by_name.get(_plain(entry), {}).get(quantity)


def analysis_path(results: Path, recipe: str, split: str, seed: int, kind: AnalysisKind) -> Path:
    """Where an analysis is kept. UsageError for a name that would leave the store."""
    return ResultStore(results).folder(recipe, split) / f"analysis-{kind}-seed{seed}.json"


def store_analysis(results: Path, analysis: Analysis) -> Path:
    """Write an analysis; its path."""
    path = analysis_path(results, analysis.recipe, analysis.split, analysis.seed, analysis.kind)
    content: dict[str, Any] = analysis.model_dump(mode="json", by_alias=True)
    write_json(path, content)
    return path


def read_analysis(results: Path, recipe: str, split: str, seed: int, kind: AnalysisKind) -> Analysis | None:
    """The stored analysis; None where there is none.

    Raises:
        DataError: it is damaged, or about another run than its place says.
    """
    path = analysis_path(results, recipe, split, seed, kind)
    if not path.is_file():
        return None
    fix = f"rm '{path}', then run its table again"
    analysis = read_model(path, Analysis, "analysis", fix)
    if (analysis.recipe, analysis.split, analysis.seed, analysis.kind) != (recipe, split, seed, kind):
        what = f"this analysis is of {analysis.recipe} on {analysis.split}, seed {analysis.seed} ({analysis.kind})"
        raise DataError(what, str(path), fix)
    return analysis


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum() or c in "+-")

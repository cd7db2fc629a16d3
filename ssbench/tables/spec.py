"""A paper's table as data: rows, columns, printed numbers, and which recipe, split and settings fill each cell.

A table is one YAML file, `recipes/<paper>/table<N>.yaml`, in the paper's own order of rows and columns. The fields of
`CellFields` may stand in four places: `defaults`, a column, a row, and the part of a row that covers the column. A cell
takes each field from the last of these four that states it.

Printed numbers are written as the paper writes them, `printed: 45.77 72.0 -`, and keep their digits. "-" is a dash, and
so is a column that no part covers. Gains are not stored: `gain_over` names the row or column they are taken over, and
they are computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ssbench import paths
from ssbench.errors import RecipeError, nearest
from ssbench.paths import shipped
from ssbench.recipe.marks import Keys, Marked, read
from ssbench.recipe.recipe import is_table_name

Role = Literal["B", "P", "A", "C", "Q"]
Metric = Literal["miou", "dice", "iou", "box_accuracy", "pixel_accuracy", "patch_share", "miou_gain"]
Scoring = Literal["whole", "sliding", "center", "volume"]
UNSTATED = "not stated"


def _decimals(value: object) -> object:
    """ "45.77 72.0 -" or a list, as decimals; None for a dash."""
    if isinstance(value, float):
        raise ValueError(f"write a single number in quotes, '{value}', so that its digits are kept")
    words = value.split() if isinstance(value, str) else value
    return [_decimal(word) for word in words] if isinstance(words, list) else words


def _decimal(word: object) -> Decimal | None:
    if word in (None, "-"):
        return None
    text = str(word)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"'{text:.40}' is no number (a dash is '-')") from None
    if len(text) > 12 or not number.is_finite() or not -100 <= number <= 100:
        raise ValueError(f"'{text:.40}' is no number between -100 and 100")
    return number


Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(max_length=60)]  # a recipe's name is made of four, and is the name of a folder
Printed = Annotated[list[Decimal | None] | None, BeforeValidator(_decimals)]
Setting = bool | Annotated[int, Field(gt=-(2**63), lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)] | Text


class CellFields(BaseModel):
    """What identifies the run behind a cell.

    role: B baseline, P baseline + plug-in, A ablation, C context (a method of ours, here only quoted), Q quoted only.
    method, plugin: our names; null where we have none. backbone, crop (pixels): as the paper states them.
    recipe: `paper/name`, or a path from this table's folder; null for the name `cell.suggest_recipe` gives.
    split: `dataset/family/part`. family: `dataset/family` that replaces the split's own, because lists of one name
    differ, or "not stated". set: recipe fields (`plugin.k: 5`) by which this cell's run departs from the recipe.
    printed_on: `dataset/family` the printed number was obtained on, where a run here takes other lists. scored: how the
    printed number was scored, where that is known (`sections.EvalConfig`).
    beside: the recipe of a second run, on the same split and seed, that an analysis reads (`cell.ANALYSED`). pixels:
    which pixels a pixel accuracy is of.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Role | None = None
    method: Name | None = None
    plugin: Name | None = None
    backbone: Name | None = None
    crop: int | None = Field(default=None, gt=0, lt=100_000)
    recipe: str | None = Field(default=None, min_length=1, max_length=200)
    split: Name | None = Field(default=None, pattern=r"^[\w.+-]+/[\w.+-]+/[\w.+-]+$")
    family: Name | None = Field(default=None, pattern=rf"^([\w.+-]+/[\w.+-]+|{UNSTATED})$")
    printed_on: Name | None = Field(default=None, pattern=r"^[\w.+-]+/[\w.+-]+$")
    scored: Scoring | None = None
    metric: Metric | None = None
    beside: str | None = Field(default=None, min_length=1, max_length=200)
    pixels: Literal["confident", "agreed", "unboxed"] | None = None
    overrides: dict[Text, Setting] = Field(default={}, alias="set")


class TableColumn(CellFields):
    """One column. group: the heading above it; class_name: it shows this class's IoU; gain_over: another column."""

    id: Text
    label: Text
    group: Text | None = None
    class_name: Text | None = None
    gain_over: Text | None = None


class RowPart(CellFields):
    """Some columns of a row: `over` is a column group or a list of column ids (default: all).

    printed: one number a column; left out where the paper prints none but the run is wanted.
    """

    over: Text | list[Text] | None = None
    printed: Printed = None


class TableRow(RowPart):
    """One line of the paper. Either it is one part itself, or it has `parts`. notes: keys of the table's notes."""

    id: Text
    label: Text
    venue: Text | None = None
    group: Text | None = None
    gain_over: Text | None = None
    notes: list[Text] = []
    parts: list[RowPart] = []

    @property
    def pieces(self) -> Sequence[RowPart]:
        """The parts, or the row itself when it is a single one."""
        return self.parts or (self,)


class EmphasisRule(BaseModel):
    """What a paper sets in bold and underlines; `layout.emphasis` applies it to printed and measured numbers.

    bold: the best number, every number of a row with a plug-in, or none. underline: the second best, or none.
    within: what is ranked against what: the numbers of a column, those of a column under one row heading, those of a
    row, or those of a block (one row heading x one column heading).
    source: where the paper's rule is seen.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    bold: Literal["best", "plugin", "none"] = "best"
    underline: Literal["second", "none"] = "none"
    within: Literal["column", "group", "row", "block"] = "group"
    source: Text = "ours"


class PaperTable(BaseModel):
    """One table as its YAML file states it; `fill.fill` adds what a store of results has.

    paper: null for a table that belongs to no paper. mean_gains: the paper prints column gains as a mean over rows.
    notes: footnotes by letter; rows refer to them, and those no row names are about the whole table.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    title: Text
    paper: Name | None = None
    number: Text = ""
    metric: Metric
    caption: Text = ""
    mean_gains: bool = False
    emphasis: EmphasisRule = EmphasisRule()
    defaults: CellFields = CellFields()
    columns: list[TableColumn] = Field(min_length=1, max_length=100)
    rows: list[TableRow] = Field(min_length=1, max_length=1000)
    notes: dict[Text, Text] = {}
    name: str = Field(default="", exclude=True)
    folder: Path = Field(default=Path(), exclude=True)

    @classmethod
    def read(cls, name: str | Path, data_root: Path | None = None) -> PaperTable:
        """The shipped table `paper/table1`, that of an imported dataset, or the one in a file (ends in .yaml).

        RecipeError with file and line for an unknown name, an unknown or missing field, or a reference to nothing.
        """
        path, shown = _find(str(name), data_root)
        marked = read(path, shown)
        try:
            table = cls.model_validate(marked.data)
        except ValidationError as error:
            raise _refused(error, marked, shown) from None
        for keys, what in _flaws(table):
            raise RecipeError(what, str(marked.at(keys)), "mend the line")
        return table.model_copy(update={"name": f"{path.resolve().parent.name}/{path.stem}", "folder": path.parent})

    def covered(self, part: RowPart) -> list[TableColumn]:
        """The columns a part covers, in the table's order."""
        if part.over is None:
            return self.columns
        if isinstance(part.over, str):
            return [c for c in self.columns if c.group == part.over]
        return [c for c in self.columns if c.id in part.over]

    def fields(self, column: TableColumn, row: TableRow, part: RowPart) -> dict[str, Any]:
        """The stated fields of `CellFields` for one cell; "overrides" are those of all four places together."""
        sources = (self.defaults, column, row, part)
        fields: dict[str, Any] = {}
        for source in sources:
            fields |= {
                name: getattr(source, name) for name in CellFields.model_fields if name in source.model_fields_set
            }
        return fields | {"overrides": {name: value for s in sources for name, value in s.overrides.items()}}


def table_names() -> list[str]:
    """Every shipped table, `paper/table1`, papers in alphabetical order and main tables before supplements."""
    files = [f for f in shipped("recipes").glob("*/*.yaml") if is_table_name(f.stem)]
    return [f"{f.parent.name}/{f.stem}" for f in sorted(files, key=_order)]


def _order(path: Path) -> tuple[str, bool, int, str]:
    """Sort key: table10 stands after table9."""
    digits = "".join(c for c in path.stem if c.isdigit())
    return path.parent.name, path.stem.startswith("supp"), int(digits or 0), path.stem


def own_table_names(data_root: Path | None = None) -> list[str]:
    """The tables of imported datasets, `NAME/table1`."""
    files = (paths.data_root(data_root) / "recipes").glob("*/*.yaml")
    return [f"{f.parent.name}/{f.stem}" for f in sorted((f for f in files if is_table_name(f.stem)), key=_order)]


def _find(name: str, data_root: Path | None) -> tuple[Path, str]:
    """The file of a table and how to call it in errors."""
    if name.endswith((".yaml", ".yml")):
        return Path(name), name
    path = shipped("recipes") / f"{name}.yaml"
    own = paths.data_root(data_root) / "recipes" / f"{name}.yaml"
    if is_table_name(path.stem) and not path.is_file() and own.is_file():
        return own, str(own)
    if not is_table_name(path.stem) or not path.is_file():
        known = [*table_names(), *own_table_names(data_root)]
        raise RecipeError(f"no table '{name}'; {nearest(name, known)}", "", "ssbench list tables")
    return path, f"recipes/{name}.yaml"


def _refused(error: ValidationError, marked: Marked, shown: str) -> RecipeError:
    """One complaint of pydantic's with its line: a misspelt field before the field it leaves missing."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    keys: Keys = first["loc"]
    while keys and keys not in marked.marks:
        keys = keys[:-1]
    where, last = str(marked.at(keys)) or shown, str(first["loc"][-1]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        section, model = _section(first["loc"])
        known = {"set", *model.model_fields} - {"overrides", "name", "folder"}
        return RecipeError(f"no field '{last}' in {section}; {nearest(last, sorted(known))}", where, "mend the line")
    if first["type"] == "missing":
        return RecipeError(f"'{last}' is missing", where, f"add '{last}:'")
    path = ".".join(map(str, keys)) or "the table"
    return RecipeError(f"{path}: {first['msg']} (it is {first['input']!r:.60})", where, "mend the value")


def _section(keys: Keys) -> tuple[str, type[BaseModel]]:
    """What the part of a table's file is called that a field stands in, and its fields."""
    names = [key for key in keys[:-1] if isinstance(key, str)]
    sections: dict[str, tuple[str, type[BaseModel]]] = {
        "defaults": ("the defaults", CellFields),
        "columns": ("a column", TableColumn),
        "rows": ("a row", TableRow),
        "parts": ("a part of a row", RowPart),
        "emphasis": ("the emphasis", EmphasisRule),
    }
    return next((sections[name] for name in reversed(names) if name in sections), ("the table", PaperTable))


def _flaws(table: PaperTable) -> Iterator[tuple[Keys, str]]:
    """Where a table that has the right fields makes no sense."""
    yield from _id_flaws("columns", table.columns)
    yield from _id_flaws("rows", table.rows)
    for i, row in enumerate(table.rows):
        for note in row.notes:
            if note not in table.notes:
                yield ("rows", i, "notes"), f"no note '{note}'; {nearest(note, list(table.notes))}"
        yield from _row_flaws(table, row, ("rows", i))
    for i, row in enumerate(table.rows):
        yield from _role_flaws(table, row, ("rows", i))


def _id_flaws(field: str, items: Sequence[TableRow | TableColumn]) -> Iterator[tuple[Keys, str]]:
    ids = [item.id for item in items]
    for i, item in enumerate(items):
        if item.id in ids[:i]:
            yield (field, i, "id"), f"the id '{item.id}' is used twice among the {field}"
        if item.gain_over is not None and (item.gain_over not in ids or item.gain_over == item.id):
            yield (field, i, "gain_over"), f"gain_over names no other of the {field}: '{item.gain_over}'; known: {ids}"


def _row_flaws(table: PaperTable, row: TableRow, at: Keys) -> Iterator[tuple[Keys, str]]:
    if row.parts and (row.over is not None or row.printed is not None):
        yield (*at, "parts"), f"row '{row.id}' has both `parts` and its own `over` or `printed`"
    taken: set[str] = set()
    for j, part in enumerate(row.pieces):
        here = (*at, "parts", j) if row.parts else at
        covered = [c.id for c in table.covered(part)]
        if not covered or (isinstance(part.over, list) and len(covered) != len(part.over)):
            ids = [c.id for c in table.columns]
            yield (*here, "over"), f"over: {part.over!r} is no column group and no list of column ids ({ids})"
        if twice := taken & set(covered):
            yield (*here, "over"), f"two parts of row '{row.id}' cover {sorted(twice)}"
        if part.printed is not None and len(part.printed) != len(covered):
            yield (*here, "printed"), f"{len(part.printed)} printed numbers for {len(covered)} columns {covered}"
        taken |= set(covered)


def _role_flaws(table: PaperTable, row: TableRow, at: Keys) -> Iterator[tuple[Keys, str]]:
    for fields in (table.fields(c, row, part) for part in row.pieces for c in table.covered(part)):
        if fields.get("role") == "Q" and (fields.get("method") or fields.get("plugin")):
            yield at, f"row '{row.id}' is quoted only (role Q), so it has no method and no plug-in"
        if table.paper and fields.get("role") is None:
            yield at, f"row '{row.id}' has no role (B, P, A, C or Q)"

"""Records of runs as recipes: a record's resolved settings read back, with a mark that says where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ssbench.errors import DataError
from ssbench.files import read_model
from ssbench.recipe.marks import Keys, Mark, Marked
from ssbench.recipe.outside import Outside

SET = "set "  # how a record's departures begin where a `--set` made them


def set_arguments(departures: Iterable[object] | None) -> tuple[str, ...]:
    """The `--set` arguments of a run, which its record keeps among the departures (None: a record without any)."""
    return tuple(str(text).removeprefix(SET) for text in departures or () if str(text).startswith(SET))


class Identity(Outside):
    """What a run was made of besides recipe, lists and seed. Records of older versions have none.

    versions: behaviour version of each part.
    """

    versions: dict[str, int] = {}


class RunHead(BaseModel):
    """The part of a record that says which run it is of; the rest is ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    key: str
    recipe: str
    paper: str | None = None
    split: str
    split_sha256: str
    seed: int
    division: str = "closed"
    quick: bool = False
    departures: list[str] = []
    identity: Identity | None = None
    resolved: dict[str, Any]

    @property
    def overrides(self) -> tuple[str, ...]:
        """The `--set` arguments of the run."""
        return set_arguments(self.departures)

    @property
    def name(self) -> str:
        """The recipe's name, without the hash of the overrides that results are kept under."""
        return self.recipe.rsplit("+", 1)[0] if self.overrides else self.recipe


def read_run_head(path: Path) -> RunHead:
    """Which run the record at `path` is of.

    Raises:
        DataError: no record, a damaged one, or the record of a quick run.
    """
    head = read_model(path, RunHead, "record", "name a record that ssbench run wrote: results/.../seed0.json")
    if head.quick:
        raise DataError("this is the record of a quick run", str(path), "ssbench run RECIPE --quick runs it again")
    return head


def recipe_text_of(head: RunHead, path: Path) -> Marked:
    """The settings of a record's run, as if read from a recipe's file; every value is marked with the record.

    A method, net or plug-in of the user's own stands there by the path of its file, as long as the file is there.
    """
    data = {section: block for section, block in head.resolved.items() if block}
    own = {} if head.identity is None else {f.role: f.path for f in head.identity.files if Path(f.path).is_file()}
    for section in ("method", "net"):
        if section in own and isinstance(data.get(section), dict):
            data[section] = {**data[section], "name": own[section]}
    if plugins := head.resolved.get("plugin"):
        blocks = [{**p, "name": own.get(f"plugin {p.get('name')}", p.get("name"))} for p in plugins]
        data["plugin"] = blocks[0] if len(blocks) == 1 else blocks
    if isinstance(data.get("views"), dict):
        data["views"] = _read_views(data["views"])
    data |= {"paper": head.paper, "division": head.division, "title": f"repeats {path.name}"}
    data["departures"] = [text for text in head.departures if not text.startswith(SET)]
    mark = Mark(str(path), 0, "as in the record")
    return Marked(data, {keys: mark for section, block in data.items() for keys in _places((section,), block)})


def without_own_plugins(text: Marked, head: RunHead) -> Marked:
    """The text of `recipe_text_of` without plug-ins of the user's own, whose files may have gone or changed."""
    own = {file.role for file in (head.identity or Identity()).files}
    blocks = [block for block in head.resolved.get("plugin") or [] if f"plugin {block.get('name')}" not in own]
    text.data["plugin"] = (blocks[0] if len(blocks) == 1 else blocks) or None
    return text


def _read_views(views: dict[str, Any]) -> dict[str, Any]:
    """Without the settings that no chosen pipeline reads: a record holds their usual values, for the run's key."""
    from ssbench.views.pipelines import views_class
    from ssbench.views.settings import UNREAD

    read = views_class(views).model_fields
    return {field: value for field, value in views.items() if field in read or UNREAD.get(field) != value}


def differences(before: Any, now: Any, at: str = "") -> Iterator[str]:
    """Each value that differs between two resolved recipes: "optim.lr: 0.01, now 0.02"."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from differences(before.get(name), now.get(name), f"{at}.{name}" if at else str(name))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{at}.{i}")
    elif before != now:
        yield f"{at}: {before}, now {now}"


def _places(at: Keys, block: Any) -> Iterator[Keys]:
    yield at
    inner = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    for key, value in inner:
        yield from _places((*at, key), value)

"""Recipes: strict YAML files that say what is trained on what, every constant with its source.

dataset + net + method + plug-in + constants; the split and the seed are arguments of a run, not of a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from ssbench import find, paths
from ssbench.errors import RecipeError, nearest
from ssbench.methods import hosting
from ssbench.recipe.automatic import AUTO, fill_in
from ssbench.recipe.compose import find_recipe, is_table_name, merge, read_recipe, recipe_names, shown
from ssbench.recipe.fitting import refuse_device_views, refuse_single_image, refuse_unfit_crop, refuse_unfit_weights
from ssbench.recipe.marks import Keys, Marked
from ssbench.recipe.overrides import override
from ssbench.recipe.quick import shrunk
from ssbench.recipe.resolved import Division, Recipe, name_with_overrides
from ssbench.recipe.sections import PROTOCOLS, AboutConfig, DataConfig, EvalConfig, OptimConfig, ScheduleConfig
from ssbench.recipe.stored import read_run_head, recipe_text_of
from ssbench.views.settings import UNREAD, ViewsConfig

if TYPE_CHECKING:
    from ssbench.data.dataset import Dataset

__all__ = [
    "Division",
    "PROTOCOLS",
    "DataConfig",
    "EvalConfig",
    "OptimConfig",
    "Recipe",
    "ScheduleConfig",
    "find_recipe",
    "is_table_name",
    "load",
    "read_recipe",
    "recipe_names",
]

NEEDED = ("data", "views", "net", "method", "optim", "schedule")
SECTIONS = (*AboutConfig.model_fields, *NEEDED, "plugin", "loss", "eval", "quick")


def load(
    name: str,
    overrides: Sequence[str] = (),
    quick: bool = False,
    division: Division | None = None,
    data_root: Path | None = None,
    is_checked: bool = True,
    dataset: str | None = None,
    done: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read, merge, override and validate a recipe.

    Args:
        overrides: "a.b=value" with YAML values.
        quick: apply the shrinking of `ssbench.recipe.quick`, for a run of seconds on a CPU.
        division: replaces the recipe's.
        data_root: where imported datasets are (default: $SSBENCH_DATA or ./data); built-in ones need none.
        is_checked: as for `resolve`.
        dataset: the one of the split, for a recipe that is for any dataset.
        done: as for `fill_in`.
    Raises:
        RecipeError: anything wrong, with file:line and the nearest known name. DataError: a recipe for any dataset,
            and that one is not prepared.
    """
    if name.endswith(".json"):  # the record of a run is a recipe, too
        if overrides or quick or division:
            raise RecipeError("a record is repeated as it stands", name, "ssbench check RECORD.json --write mine.yaml")
        head = read_run_head(Path(name))
        return resolve(
            head.name, Path(name), recipe_text_of(head, Path(name)), head.overrides, False, data_root, is_checked
        )
    place, marked = read_recipe(name)
    smaller = marked.data.pop("quick", None) or {}
    if not isinstance(smaller, dict):
        raise RecipeError("'quick' must be a mapping of sections", str(marked.at(("quick",))), "quick: {net: {...}}")
    root, kept = paths.data_root(data_root), _named_overrides(marked, overrides)
    if quick:
        marked = fill_in(marked, "toy", root)
        whole = resolve(place.name, place.path, marked, (), False, data_root)  # a mistake in what is shrunk is one too
        marked = merge(marked, shrunk(marked.data, smaller, _dataset_class(whole, data_root).channels == 1))
    for text in overrides:
        marked = override(marked, text)
    if division is not None:
        marked = override(marked, f"division={division}")
    marked = fill_in(marked, dataset, root, done=done)
    return resolve(place.name, place.path, marked, kept, quick, data_root, is_checked)


def stored_name_of(name: str, overrides: Sequence[str]) -> str:
    """`Recipe.stored_name` of a recipe by its name, whether its dataset is there or not. RecipeError as `load`."""
    place, marked = read_recipe(name)
    return name_with_overrides(place.name, _named_overrides(marked, overrides))


def _named_overrides(marked: Marked, overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that make another recipe.

    The dataset of a recipe for any dataset is part of the split's name, so a `--set` of it is none of them.
    """
    data = marked.data.get("data")
    is_for_any = isinstance(data, dict) and data.get("dataset") == AUTO
    return tuple(text for text in overrides if not (is_for_any and text.replace(" ", "").startswith("data.dataset=")))


def resolve(
    name: str,
    path: Path,
    marked: Marked,
    overrides: tuple[str, ...],
    quick: bool,
    data_root: Path | None,
    is_checked: bool = True,
) -> Recipe:
    """A merged text as a recipe: every section typed, every pair of settings checked.

    Args:
        is_checked: whether its parts and its dataset must fit each other. Not for a stored run whose data have gone.
    Raises:
        RecipeError: as `load`.
    """
    from ssbench.methods.base import LossConfig
    from ssbench.views.pipelines import views_class

    raw = marked.data
    _known_sections(raw, marked, path)
    data = _section(DataConfig, raw["data"], marked, ("data",))
    method, net = _class_of("method", raw["method"], marked), _class_of("net", raw["net"], marked)
    plugins = tuple(_plugins(raw.get("plugin"), marked))
    recipe = Recipe(
        name=name,
        path=path,
        about=_section(AboutConfig, {k: v for k, v in raw.items() if k in AboutConfig.model_fields}, marked, ()),
        data=data,
        views=_section(views_class(raw["views"]), raw["views"], marked, ("views",)),
        net=_section(net.Config, _under_own_name(raw["net"], net), marked, ("net",)),
        method=_section(method.Config, _under_own_name(raw["method"], method), marked, ("method",)),
        plugins=tuple(cfg for _, _, cfg in plugins),
        loss=_section(LossConfig, raw.get("loss") or {}, marked, ("loss",)),
        optim=_section(OptimConfig, raw["optim"], marked, ("optim",)),
        schedule=_section(ScheduleConfig, raw["schedule"], marked, ("schedule",)),
        eval=_section(EvalConfig, raw.get("eval") or {}, marked, ("eval",)),
        overrides=overrides,
        quick=quick,
        marked=marked,
        classes=(method, net, *(cls for _, cls, _ in plugins)),
        data_root=data_root,
    )
    if not is_checked:
        return recipe
    _hooks_fit(recipe, method, [(at, cls) for at, cls, _ in plugins], marked)
    _settings_fit(recipe, method, [(at, cls) for at, cls, _ in plugins], data_root)
    _protocol_fits(recipe, data_root)
    refuse_unfit_weights(recipe.net, recipe.views, marked)
    refuse_unfit_crop(recipe.net, recipe.views, marked)
    refuse_device_views(recipe.views, recipe.schedule.precision, marked)
    return recipe


def _known_sections(raw: Mapping[str, Any], marked: Marked, path: Path) -> None:
    for key in raw:
        if key not in SECTIONS:
            what = f"no section '{key}'; {nearest(str(key), list(SECTIONS))}"
            raise RecipeError(what, str(marked.at((key,))), f"sections: {', '.join(SECTIONS)}")
    for section in NEEDED:
        if section not in raw:
            raise RecipeError(f"no section '{section}'", shown(path), f"add '{section}:' or a base that has it")


def _class_of(kind: Literal["method", "net"], block: Any, marked: Marked) -> type[Any]:
    """The class a section names."""
    if not isinstance(block, dict) or not isinstance(block.get("name"), str):
        raise RecipeError(f"'{kind}' needs a name", str(marked.at((kind,))), f"{kind}: {{name: ...}}")
    return find.load(kind, block["name"], str(marked.at((kind, "name"))))


def _plugins(section: Any, marked: Marked) -> Iterator[tuple[Keys, type[Any], Any]]:
    """(place, class, settings) of each plug-in: a block, a list of them, bare names; null and "none" are no plug-in."""
    for i, entry in enumerate(section if isinstance(section, list) else [section]):
        at: Keys = ("plugin", i) if isinstance(section, list) else ("plugin",)
        block = entry if isinstance(entry, dict) else {"name": entry}
        name = block.get("name", "")
        if name in (None, "none"):
            continue
        if not isinstance(name, str) or not name:
            raise RecipeError("'plugin' needs a name", str(marked.at(at)), "plugin: {name: ...}, or leave it out")
        cls = find.load("plugin", name, str(marked.at((*at, "name"))))
        yield at, cls, _section(cls.Config, _under_own_name(block, cls), marked, at)


def _under_own_name(block: dict[str, Any], cls: type[Any]) -> dict[str, Any]:
    """A block that names a user's file, with the word that the class in it goes by."""
    return {**block, "name": find.own_name(cls)} if str(block["name"]).endswith(".py") else block


def _hooks_fit(recipe: Recipe, method: type[Any], plugins: Sequence[tuple[Keys, type[Any]]], marked: Marked) -> None:
    """Refuse a network the method cannot train, and plug-ins it cannot host, at the line that names them."""
    if refusal := hosting.net_refused(recipe.method.name, method, recipe.net.name, recipe.classes[1]):
        raise RecipeError(refusal.what, str(marked.at(("net", "name"))), refusal.fix)
    parts = [hosting.Part(cfg.name, cls, cfg) for (_, cls), cfg in zip(plugins, recipe.plugins, strict=True)]
    refusal = hosting.refused(recipe.method.name, method, recipe.method, parts)
    if refusal := refusal or hosting.tap_refused(recipe.net, recipe.classes[1], parts):
        raise RecipeError(refusal.what, str(marked.at(plugins[refusal.which][0])), refusal.fix)


def _settings_fit(
    recipe: Recipe, method: type[Any], plugins: Sequence[tuple[Keys, type[Any]]], data_root: Path | None
) -> None:
    """Refuse settings of the method and the plug-ins that do not fit the losses, the batches or the classes."""
    from ssbench.data.open import class_names

    where = str(recipe.marked.at(("data", "dataset")))
    schedule, classes = recipe.schedule, class_names(recipe.data.dataset, paths.data_root(data_root), where)
    try:
        method.check(recipe.method, recipe.loss, None if classes is None else len(classes))
        method.check_batches(recipe.method, schedule.labeled_batch, schedule.unlabeled_batch)
        method.check_views(recipe.method, recipe.views)
        refuse_single_image(recipe.classes, recipe.method, recipe.plugins, schedule)
    except RecipeError as error:
        raise RecipeError(error.what, str(recipe.marked.at(tuple(error.where.split(".")))), error.fix) from None
    for (at, cls), cfg in zip(plugins, recipe.plugins, strict=True):
        if classes is None:  # the plug-in checks them when it is built
            return
        try:
            cls.check(cfg, len(classes))
        except RecipeError as error:
            raise RecipeError(error.what, str(recipe.marked.at(at)), error.fix) from None


def _dataset_class(recipe: Recipe, data_root: Path | None) -> type[Dataset]:
    from ssbench.data.open import class_of

    return class_of(recipe.data.dataset, paths.data_root(data_root), str(recipe.marked.at(("data", "dataset"))))


def _protocol_fits(recipe: Recipe, data_root: Path | None) -> None:
    """Refuse the volume protocol for datasets of images, and the others for datasets of volumes, before training."""
    from ssbench.data.dataset import Dataset

    cls = _dataset_class(recipe, data_root)
    if recipe.data.unlabeled is not None:
        from ssbench.data.open import class_of

        class_of(recipe.data.unlabeled, paths.data_root(data_root), str(recipe.marked.at(("data", "unlabeled"))))
    stacks = cls.volumes is not Dataset.volumes or recipe.data.form == "grey_stacks"
    if stacks != (recipe.eval.protocol == "volume"):
        what = f"protocol '{recipe.eval.protocol}' does not fit {recipe.data.dataset}"
        fix = "--set eval.protocol=volume" if stacks else "--set eval.protocol=whole, or sliding, center"
        raise RecipeError(what, str(recipe.marked.at(("eval", "protocol"))), fix)


def _section(model: type[BaseModel], value: Any, marked: Marked, at: Keys) -> Any:
    """`value` as `model`; a complaint of pydantic becomes an error with file, line and the nearest field name."""
    if not isinstance(value, dict):
        what = f"'{at[-1]}' must be a mapping, not {value!r}"
        raise RecipeError(what, str(marked.at(at)), f"{at[-1]}: followed by name: value lines")
    try:
        settings = model.model_validate(value)
        settings.model_dump(mode="json")  # every setting must fit into a recipe, a record and the key of a run
    except ValidationError as error:
        raise _refused(model, value, error, marked, at) from None
    except (PydanticSerializationError, OverflowError) as error:
        what = f"settings of {model.__qualname__} that no recipe can hold: {error}"
        raise RecipeError(what, str(marked.at(at)), "defaults are numbers, strings, lists or None") from None
    return settings


def _refused(model: type[BaseModel], value: Any, error: ValidationError, marked: Marked, at: Keys) -> RecipeError:
    """The first complaint of pydantic as an error with file and line; a misspelt field goes before a missing one."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where, field = str(marked.at((*at, *first["loc"]))), str(first["loc"][0]) if first["loc"] else ""
    label = (
        " ".join([str(at[0]), str(value["name"])] if at and "name" in value else [str(k) for k in at[:1]]) or "recipe"
    )
    if first["type"] == "extra_forbidden" and issubclass(model, ViewsConfig) and field in UNREAD:
        what = f"views: none of the pipelines {model.pipelines} reads '{field}'"
        return RecipeError(what, where, "leave it out, or choose a pipeline that reads it")
    if first["type"] == "extra_forbidden":
        what = f"{label} has no field '{field}'; {nearest(field, list(model.model_fields))}"
        return RecipeError(what, where, "ssbench check RECIPE shows the fields in use")
    if first["type"] == "missing":
        return RecipeError(f"{label} lacks '{field}'", where, f"add '{field}:'")
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        reason, _, option = message.partition(": --set ")
        return RecipeError(f"{label}: {reason}", where, f"--set {option}" if option else "mend the section")
    setting = f"{'.'.join(map(str, first['loc']))} = {first['input']!r:.80}"
    return RecipeError(f"{label}: {setting}: {message[:1].lower()}{message[1:]}", where, "mend the value")

"""`check`: validates recipes and prints each constant with its source. It runs without torch where it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssbench import find
from ssbench.commands.common import DataRoot, Json, Overrides, Plugins, print_json
from ssbench.errors import RecipeError, UsageError
from ssbench.nets.pretrained import DINO, PACKAGED, NotHereError
from ssbench.paths import quoted
from ssbench.without_torch import import_stand_ins

if TYPE_CHECKING:
    from ssbench.find import Kind
    from ssbench.recipe.recipe import Recipe

KINDS: tuple[Kind, ...] = ("method", "net", "plugin")
ENCODERS = (
    "resnet101s",
    "resnet50s",
    "resnet101",
    "resnet50",
    "resnet18",
    "test_resnet",
    "xception65",
    "vit_b16",
    "vit_tiny",
    "vit_tiny_patch8",
    *DINO,
    *PACKAGED,
)
"""Encoders of the shipped recipes, and of packages with weights. Other names only timm knows, which imports torch."""


def check(
    recipes: Annotated[list[str] | None, typer.Argument(help="Recipe names or YAML files.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every shipped recipe.")] = False,
    plugin: Plugins = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Also write the recipe, whole and commented, to this YAML file.")
    ] = None,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Validate recipes; print each constant with its source."""
    from ssbench.console import say
    from ssbench.recipe.compose import recipe_names, with_plugins

    names = with_plugins(recipe_names() if all_ else recipes or [], plugin or [])
    if not names:
        raise UsageError("no recipe given", "arguments", "ssbench check --all, or ssbench list recipes")
    if write is not None and len(names) != 1:
        raise UsageError(f"--write with {len(names)} recipes", "--write", "ssbench check RECIPE --write mine.yaml")
    if use_only_our_classes(names, overrides or []):
        import_stand_ins()
    from ssbench.recipe.recipe import load

    loaded: list[Recipe] = []
    wrong: list[RecipeError] = []
    for name in names:
        try:
            loaded.append(load(name, overrides or (), data_root=data_root))
        except RecipeError as error:
            wrong.append(error)
    if json:
        print_json({"recipes": [_checked(recipe) for recipe in loaded], "errors": [vars(e) for e in wrong]})
    for recipe in loaded if not json else ():
        _print_checked(recipe, short=all_)
    for other in wrong[1:]:
        say(f"error: {other}")
    if wrong:
        raise wrong[0]
    if write is not None:
        _write_recipe(loaded[0], write)
    if not all_ and not json:
        _say_missing_weights(loaded)


def _say_missing_weights(recipes: Sequence[Recipe]) -> None:
    """Name the weights that are not on this machine: a run would look for them before it trains.

    Raises:
        DataError: a file or a package is missing, which no run can download.
    """
    from ssbench.console import say

    missing = [
        error
        for recipe in recipes
        for cls, cfg in zip(recipe.classes[1:], (recipe.net, *recipe.plugins), strict=True)
        for error in getattr(cls, "missing_files", _no_files)(cfg)
    ]
    for error in {str(error): error for error in missing}.values():
        if not isinstance(error, NotHereError):
            raise error
        say(f"note: {error}")


def _no_files(cfg: object) -> tuple[()]:
    """What a class has that names no files: one of a user's that is no `SegNet` or `Plugin`."""
    return ()


def use_only_our_classes(names: Sequence[str], overrides: Sequence[str]) -> bool:
    """Whether the methods, nets, plug-ins and encoders of these recipes are known here, so that torch is not needed.

    A user's file or another package's class may compute with torch while it is imported. Records and overrides that
    choose a class are not looked into: they may name one.
    """
    if any(name.endswith(".json") for name in names):
        return False
    if any(text.partition("=")[0].endswith(("name", "method", "net", "plugin")) for text in overrides):
        return False
    chosen = [text.partition("=")[2] for text in overrides if text.partition("=")[0].endswith("encoder")]
    if not all(encoder in ENCODERS for encoder in chosen):
        return False
    sections = [section for name in names for section in _sections(name)]
    if not all(_encoder(data) in (None, *ENCODERS) for data in sections):
        return False
    return not any(_is_foreign(kind, name) for data in sections for kind, name in _class_names(data))


def _sections(recipe: str) -> Iterator[dict[str, Any]]:
    """A recipe's text; nothing where it cannot be read, which `load` will report."""
    from ssbench.recipe.compose import read_recipe

    with suppress(RecipeError):
        yield read_recipe(recipe)[1].data


def _encoder(sections: dict[str, Any]) -> Any:
    net = sections.get("net")
    return net.get("encoder") if isinstance(net, dict) else None


def _class_names(sections: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    """The names of the classes that a recipe's text chooses."""
    from ssbench.recipe.compose import plugin_blocks

    for kind in KINDS:
        blocks = plugin_blocks(sections.get(kind))
        for block in blocks if isinstance(blocks, list) else [blocks]:
            if isinstance(block, dict) and isinstance(block.get("name"), str):
                yield kind, block["name"]


def _is_foreign(kind: Kind, name: str) -> bool:
    return name.endswith(".py") or (name in find.names(kind) and not find.is_ours(kind, name))


def _write_recipe(recipe: Recipe, path: Path) -> None:
    from ssbench.console import say
    from ssbench.files import write_text
    from ssbench.recipe.written import recipe_text

    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"'{path}' is no YAML file", "--write", "--write mine.yaml")
    if path.exists():
        raise UsageError(f"'{path}' is there already", str(path), "choose another name, or remove the file")
    write_text(path, recipe_text(recipe))
    say(f"{path}: {recipe.name}, whole; edit it, then: ssbench run {quoted(path)} --split {recipe.data.dataset}/...")


def _checked(recipe: Recipe) -> dict[str, Any]:
    from ssbench.tables.printed import printed_scores

    sources = [{"name": n, "value": v, "source": m.comment, "at": str(m)} for n, v, m in recipe.sources()]
    about: dict[str, Any] = {"title": recipe.title, "paper": recipe.paper, "division": recipe.division}
    about |= {"expect": printed_scores(recipe.name)}
    return {"recipe": recipe.name, **about, "resolved": recipe.resolved(), "sources": sources}


def _print_checked(recipe: Recipe, short: bool) -> None:
    if short:
        print(f"ok {recipe.name}")
        return
    from ssbench.tables.printed import printed_scores

    print(f"{recipe.name}: {recipe.title}  ({recipe.path}, {recipe.division} division)")
    for split, score in printed_scores(recipe.name).items():
        print(f"  printed: {score} on {split}")
    for text in recipe.departures:
        print(f"  departure: {text}")
    lines = [(name, str(value), str(mark), mark.comment) for name, value, mark in recipe.sources()]
    name_width, value_width, place_width = (max(len(line[i]) for line in lines) for i in range(3))
    for name, value, place, comment in lines:
        print(f"  {name:{name_width}}  {value:{value_width}}  {place:{place_width}}  {comment}".rstrip())

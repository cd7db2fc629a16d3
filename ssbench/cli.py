"""The `ssbench` command: human text on stderr, data on stdout, errors in three parts with the contract's exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ssbench import __version__
from ssbench.commands import catalogue, demo, doctor, prepare, runs, splits, tables
from ssbench.errors import SsbenchError

app = typer.Typer(
    name="ssbench",
    help="Re-run the result tables of semi-supervised segmentation papers, printed beside what they printed.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (prepare, catalogue, runs, tables, demo, doctor):
    module.register(app)
app.add_typer(splits.app, name="splits")
app.add_typer(splits.data_app, name="data")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Re-run the result tables of semi-supervised segmentation papers, printed beside what they printed."""
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: every error ends in its exit code, and none in a half-written file."""
    sys.exit(_run())


def _run() -> int:
    import click

    try:
        code = app(standalone_mode=False)
    except SsbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception:
        import traceback

        traceback.print_exc()
        print("error: this is a fault of ssbench, not of your input\n  fix:   report it with the lines above", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0

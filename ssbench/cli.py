"""The `ssbench` command: human text on stderr, data on stdout, errors in three parts with the contract's exit codes."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated, Any

import typer

from ssbench import __version__
from ssbench.commands import data, new, splits
from ssbench.commands.bench import bench
from ssbench.commands.certify import certify
from ssbench.commands.check import check
from ssbench.commands.demo import demo
from ssbench.commands.doctor import doctor
from ssbench.commands.eval_ import evaluate
from ssbench.commands.export import export
from ssbench.commands.gate import gate
from ssbench.commands.import_ import import_
from ssbench.commands.list_ import list_
from ssbench.commands.plan import plan
from ssbench.commands.predict import predict
from ssbench.commands.prepare import prepare
from ssbench.commands.report import report
from ssbench.commands.run import run
from ssbench.commands.status import status
from ssbench.commands.table import table
from ssbench.errors import (
    DataError,
    Interrupted,
    RecipeError,
    SsbenchError,
    UsageError,
    nearest,
    refused_by_system,
)
from ssbench.find import fault_of_user

app = typer.Typer(
    name="ssbench",
    help="Re-run the result tables of semi-supervised segmentation papers, printed beside what they printed.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    # Help is as wide as the terminal; click would stop at 80 columns.
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 1000},
)
# In the order of `ssbench --help`: the way from data to a table.
for name, command in (
    ("prepare", prepare),
    ("import", import_),
    ("list", list_),
    ("certify", certify),
    ("plan", plan),
    ("check", check),
    ("bench", bench),
    ("run", run),
    ("eval", evaluate),
    ("status", status),
    ("predict", predict),
    ("export", export),
    ("table", table),
    ("report", report),
    ("gate", gate),
    ("demo", demo),
    ("doctor", doctor),
):
    app.command(name)(command)
app.add_typer(splits.app, name="splits")
app.add_typer(data.app, name="data")
app.add_typer(new.app, name="new")

COMPLETION = "_SSBENCH_COMPLETE"
"""The variable by which a shell asks for completions."""

# Newer typers carry a click of their own; its errors are no classes of the package `click`.
BadArguments: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


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
    if hasattr(sys.stdout, "reconfigure"):
        # A file name need not be text, and a terminal need not have every letter: what cannot be encoded is escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_left()
    sys.exit(code)


def _run() -> int:
    try:
        code = app(prog_name="ssbench", standalone_mode=False)
        return _report(Interrupted("interrupted")) if code == Interrupted.code else int(code or 0)
    except SsbenchError as error:
        return _report(error)
    except BadArguments as error:
        return _help(error) if type(error).__name__ == "NoArgsIsHelpError" else _report(_in_three_parts(error))
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _report(Interrupted("interrupted"))
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer's own way out of a broken pipe
            return _reader_left()
        if COMPLETION in os.environ:  # how shell completion ends
            raise
        what = f"a plug-in, or another package, ended the program: sys.exit({stop.code!r})"
        return _report(RecipeError(what, "", "take the call of sys.exit out of it"))
    except Exception as error:
        if known := refused_by_system(error) or _of_the_input(error) or fault_of_user(error):
            return _report(known)
        import traceback

        traceback.print_exc()
        print("error: this is a fault of ssbench, not of your input", file=sys.stderr)
        print("  fix:   report it with the lines above", file=sys.stderr)
        return 1


def _report(error: SsbenchError) -> int:
    """Print an error; one that names no place or remedy gets the command line and its help."""
    if not isinstance(error, Interrupted):
        words = [word for word in sys.argv[1:] if not word.startswith("-")]
        error.where = error.where or shlex.join(["ssbench", *sys.argv[1:]])
        error.fix = error.fix or f"ssbench {' '.join(words[:1])} --help"
    print(f"error: {error}", file=sys.stderr)
    return error.code


def _in_three_parts(error: Any) -> UsageError:
    """A complaint about arguments, as ours are written."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "ssbench"
    what = error.format_message().replace("Value error, ", "").rstrip(".")
    known = getattr(context.command, "commands", None) if context is not None else None
    if known and what.startswith("No such command") and "Did you mean" not in what:
        what = f"{what}; {nearest(what.split(chr(39))[1], list(known))}"
    return UsageError(what[:1].lower() + what[1:], command, f"{command} --help")


def _of_the_input(error: Exception) -> SsbenchError | None:
    """An input that no reader has refused: nested without end, or a name that cannot be written into a text file."""
    if isinstance(error, RecursionError):
        return DataError("an input is nested too deeply to be read", "", "look for a damaged or made-up file")
    if isinstance(error, ValueError | RuntimeError) and str(error).startswith(("embedded null", "Symlink loop")):
        return UsageError(f"a path that no file has: {error}", "", "give the path of a file")
    if isinstance(error, UnicodeEncodeError):
        name = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        return DataError(f"the name {name} cannot be written as {error.encoding}", "", "rename the file it is of")
    return None


def _help(error: Any) -> int:
    """No arguments where some are needed: the help, as for --help, but not a success."""
    print(error.ctx.get_help(), file=sys.stderr)
    return UsageError.code


def _reader_left() -> int:
    """`ssbench list | head`: nobody reads on. Python must not try again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0

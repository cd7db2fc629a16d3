"""README.md and the guides in `recipes/`, `splits/` and `results/` are executed.

* A fenced block after a line `<!-- run -->` is run, command by command, in a folder with the toy data and the committed
  results. Lines that start with `$ ` (in a `bash` block all lines) are commands; what follows one, if anything, is
  what it must print, `...` standing for anything, also for whole lines.
* What stands between `<!-- shows: ssbench ... -->` and `<!-- end -->` must be what that command prints.
* Every other `ssbench` command, in any fenced block, must exist with those options, recipes, tables and splits.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from ssbench import cli
from ssbench.recipe.compose import host_names, own_names, recipe_names
from ssbench.splits.manifest import manifest
from ssbench.tables.spec import table_names

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ("README.md", "recipes/README.md", "splits/README.md", "results/README.md")
FENCED = re.compile(r"(?P<run><!-- run -->\s*\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"<!-- shows: (?P<command>ssbench [^\n]*?) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A command, and what the README shows of its output ("" where it shows nothing)."""

    command: str
    printed: str = ""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command, comments=True)


def _steps(kind: str, body: str) -> list[Step]:
    """Commands of a block with what stands below each."""
    if kind in ("bash", "sh"):
        return [Step(line) for line in body.splitlines() if line.strip() and not line.startswith("#")]
    steps: list[Step] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:]))
        elif steps:
            steps[-1] = Step(steps[-1].command, f"{steps[-1].printed}{line}\n")
    return steps


def _blocks(guide: str) -> list[tuple[bool, list[Step]]]:
    """The fenced blocks of a guide: whether each is run, and its steps."""
    text = (ROOT / guide).read_text(encoding="utf-8")
    return [(bool(m["run"]), _steps(m["kind"], m["body"])) for m in FENCED.finditer(text)]


def _shown(guide: str) -> list[Step]:
    text = (ROOT / guide).read_text(encoding="utf-8")
    return [Step(m["command"], m["body"]) for m in SHOWN.finditer(text)]


RUN = [(guide, step) for guide in GUIDES for run, steps in _blocks(guide) if run for step in steps]
SHOWS = [(guide, step) for guide in GUIDES for step in _shown(guide)]
NAMED = [
    (guide, step) for guide in GUIDES for _, steps in _blocks(guide) for step in steps if step.words[0] == "ssbench"
]


@pytest.fixture(scope="module")
def folders(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the commands of each guide run, one after another, on prepared toy data and the committed results."""
    homes = {guide: tmp_path_factory.mktemp("guide") for guide in GUIDES}
    for home in homes.values():
        shutil.copytree(toy_data, home / "data")
        shutil.copytree(ROOT / "results", home / "results")
    return homes


def _run(step: Step, folder: Path) -> str:
    """What a command prints."""
    assert step.words[0] == "ssbench", f"only ssbench commands are run here, not '{step.command}'"
    done = subprocess.run(
        [sys.executable, "-m", *step.words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"$ {step.command}\n{done.stderr}"
    return done.stdout


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _matches(shown: str, printed: str) -> bool:
    """Whether `printed` is what is shown, line ends aside; `...` is anything."""
    pattern = "\n".join(re.escape(line) for line in _lines(shown)).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, "\n".join(_lines(printed)), re.DOTALL) is not None


def _named(value: object) -> str:
    return value.command if isinstance(value, Step) else str(value)


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_runs_something(guide: str) -> None:
    assert any(guide == other for other, _ in RUN)


@pytest.mark.parametrize(("guide", "step"), RUN, ids=_named)
def test_a_marked_block_runs_and_prints_what_is_shown(guide: str, step: Step, folders: dict[str, Path]) -> None:
    printed = _run(step, folders[guide])
    assert not step.printed.strip() or _matches(step.printed, printed), f"$ {step.command}\n{printed}"


@pytest.mark.parametrize(("guide", "step"), SHOWS, ids=_named)
def test_a_shown_table_is_what_the_command_prints(guide: str, step: Step, folders: dict[str, Path]) -> None:
    assert _lines(step.printed) == _lines(_run(step, folders[guide]))


@pytest.mark.parametrize(("guide", "step"), [*NAMED, *SHOWS], ids=_named)
def test_every_command_exists_as_it_is_written(guide: str, step: Step) -> None:
    words = list(itertools.takewhile(lambda word: word not in ("|", ">", "&&", ";"), step.words))[1:]
    node, path = typer.main.get_command(cli.app), []
    while words and words[0] in getattr(node, "commands", {}):
        path.append(words[0])
        node = node.commands[words.pop(0)]  # type: ignore[attr-defined]
    assert path, f"no command in '{step.command}'"
    context = node.make_context(" ".join(path), words)
    _check_names(path[0], context.params)


def _check_names(command: str, given: dict[str, object]) -> None:
    """Recipes, tables and splits that a command names exist; words in capitals are for the reader to fill in."""
    known = {
        "run": {*recipe_names(), *host_names(), *own_names(), *table_names()},
        "check": {*recipe_names(), *host_names(), *own_names()},
        "table": {*table_names()},
    }
    named = given.get("targets") or given.get("recipes") or [given.get("name")]
    for name in named if command in known and isinstance(named, list | tuple) else ():
        assert name is None or _free(str(name)) or name in known[command], f"no '{name}' for ssbench {command}"
    splits = given.get("split") or []
    for split in [splits] if isinstance(splits, str) else splits:  # type: ignore[attr-defined]
        assert _free(split) or "/custom/" in split or split in manifest().splits, f"no split '{split}'"


def _free(name: str) -> bool:
    return name.isupper() or "+" in name or name.startswith("shapes/") or name.endswith((".yaml", ".yml", ".json"))


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\nb\n", "a  \nb", True),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("score ... (1)", "score 12.34 (1)", True),
        ("a\nb", "a\nc", False),
        ("a | 1.0 |", "a | 1x0 |", False),
        ("a", "a\nb", False),
    ],
)
def test_comparing_leaves_no_room_but_where_it_is_given(shown: str, printed: str, same: bool) -> None:
    assert _matches(shown, printed) == same


def test_blocks_are_read_as_they_look() -> None:
    text = "<!-- run -->\n```console\n$ ssbench list\nkind\n$ ssbench doctor\n```\n\n```bash\n# no\nssbench demo\n```\n"
    found = [(bool(m["run"]), _steps(m["kind"], m["body"])) for m in FENCED.finditer(text)]
    assert found == [
        (True, [Step("ssbench list", "kind\n"), Step("ssbench doctor")]),
        (False, [Step("ssbench demo")]),
    ]

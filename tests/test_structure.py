"""Who imports whom, how deep folders go, how long functions are: the structure, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ssbench"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "torchvision", "timm", "pandas", "matplotlib", "scipy"}
LIGHT = ["cli.py", "find.py", "errors.py", "files.py", "keyed.py", "paths.py", "recipe", "tables", "results"]
"""What `--help`, `list` and completion load, besides every file of the listed folders."""


ROOMS = [
    ("cli", "commands", "__main__"),
    ("certify",), ("page",), ("inspect",), ("jobs",), ("train",), ("tables",), ("results",), ("recipe",), ("methods",),
    ("plugins",), ("nets",), ("prepare",), ("data",), ("views",), ("splits",), ("ops",), ("console",), ("find",),
    ("files", "keyed", "errors", "paths", "without_torch"),
]  # fmt: skip
"""From the top to the bottom: a module imports from its own room and from rooms below it, never from above."""
MOST_MODULES = 26


def room(name: str) -> str:
    """The room of a dotted module name: `ssbench.train.trainer` is in train, `ssbench.files` in files."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """Dotted names a file imports: anywhere in it, or only when it is loaded (no type checker, no function)."""
    found: set[str] = set()
    for node in ast.walk(tree(path)) if everywhere else _top(tree(path).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _top(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _top([n for n in node.body if isinstance(node, ast.ClassDef)])
        else:
            yield node


def ours(path: Path) -> set[str]:
    return {name for name in imported(path) if name == "ssbench" or name.startswith("ssbench.")}


def modules(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).glob("*.py"))


def offenders(paths: list[Path], allowed: tuple[str, ...]) -> dict[str, list[str]]:
    """Own modules imported outside `allowed` prefixes, by file."""
    found = {}
    for path in paths:
        wrong = sorted(n for n in ours(path) - {"ssbench"} if not any(f"{n}.".startswith(f"{a}.") for a in allowed))
        if wrong:
            found[path.name] = wrong
    return found


def imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, anywhere in it: in functions and for the type checker, too."""
    names = {".".join(("ssbench", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    return {name: {n for n in ours(path) if n in names and n != name} for name, path in names.items()}


def test_imports_between_rooms_point_one_way() -> None:
    level = {name: i for i, row in enumerate(ROOMS) for name in row}
    upward = [
        f"{name} imports {other}"
        for name, others in imports().items()
        if room(name) != "__init__"
        for other in sorted(others)
        if room(other) != "__init__" and level[room(other)] < level[room(name)]
    ]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = imports()
    reached: dict[str, set[str]] = {}

    def below(name: str) -> set[str]:
        if name not in reached:
            reached[name] = set()
            waiting, seen = list(graph[name]), set()
            while waiting:
                other = waiting.pop()
                if other not in seen:
                    seen.add(other)
                    waiting += graph[other]
            reached[name] = seen
        return reached[name]

    circles = sorted(name for name in graph if name in below(name))
    assert not circles, f"these import themselves through others: {circles}"


def test_no_folder_holds_more_than_a_person_overlooks() -> None:
    sizes = {folder.name: len(list(folder.glob("*.py"))) - 1 for folder in PACKAGE.iterdir() if folder.is_dir()}
    assert not {name: size for name, size in sizes.items() if size > MOST_MODULES}


def test_no_two_test_files_share_a_name() -> None:
    """Pytest imports a test file by its bare name: the second of two of one name is an error and never runs."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert not [name for name in sorted(set(names)) if names.count(name) > 1]


def test_ops_import_torch_and_the_keys_alone() -> None:
    assert not offenders(modules("ops"), ("ssbench.ops", "ssbench.keyed"))
    for path in modules("ops"):
        foreign = {n.partition(".")[0] for n in imported(path)} - set(sys.stdlib_module_names) - {"ssbench"}
        assert foreign <= {"torch", "numpy", "scipy"}, path.name


@pytest.mark.parametrize("folder", ["methods", "plugins"])
def test_methods_and_plugins_never_import_each_other(folder: str) -> None:
    shared = (
        "ssbench.nets.precision",
        "ssbench.nets.pretrained",
        "ssbench.nets.segnet",
        "ssbench.nets.weights",
        "ssbench.plugins.wpl_boxes",
        "ssbench.plugins.wpl_detector",
        "ssbench.views",
        "ssbench.data",
        "ssbench.ops",
        "ssbench.keyed",
        "ssbench.errors",
        "ssbench.files",
    )
    bases = (
        ("ssbench.plugins.base", "ssbench.methods.base", "ssbench.methods.hosting")
        if folder == "methods"
        else ("ssbench.plugins.base",)
    )
    assert not offenders(modules(folder), (*shared, *bases))


@pytest.mark.parametrize("folder", ["train", "jobs", "inspect"])
def test_the_loop_names_no_method_and_no_plugin(folder: str) -> None:
    for path in modules(folder):
        named = {n for n in ours(path) if n.startswith(("ssbench.methods.", "ssbench.plugins."))}
        allowed = ("ssbench.methods.base", "ssbench.plugins.base", "ssbench.plugins.promises")
        if path.name in ("analyse.py", "pseudo_labels.py"):  # WPL's supplement Table 1 is about its detector's files
            allowed += ("ssbench.plugins.wpl",)
        assert all(n.startswith(allowed) for n in named), path.name
        names = {p.stem for folder in ("methods", "plugins") for p in modules(folder)} - {
            "__init__",
            "base",
            "promises",
        }
        words = {n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not words & names, path.name


@pytest.mark.parametrize("folder", ["tables", "results", "page"])
def test_tables_and_reports_see_no_network(folder: str) -> None:
    for path in modules(folder):
        assert not {n.partition(".")[0] for n in imported(path)} & {"torch", "torchvision", "timm"}, path.name
        assert not {n for n in ours(path) if n.startswith(("ssbench.train", "ssbench.nets"))}, path.name


def test_the_catalogue_loads_nothing_heavy() -> None:
    listed = [f for name in LIGHT for f in (modules(name) if (PACKAGE / name).is_dir() else [PACKAGE / name])]
    for path in listed:
        heavy = {n.partition(".")[0] for n in imported(path, everywhere=False)} & HEAVY
        assert not heavy, f"{path.name} imports {heavy} at its top"


def test_listing_names_imports_no_torch() -> None:
    code = "import sys; from ssbench import find; print(find.names('method'), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("False")
    assert "base" not in run.stdout


def test_folders_are_one_deep() -> None:
    assert all(len(path.relative_to(PACKAGE).parts) <= 2 for path in FILES)


def test_no_method_inherits_a_method_and_no_plugin_a_plugin() -> None:
    for folder, root in (("methods", "Method"), ("plugins", "Plugin")):
        for path in modules(folder):
            mine = {n.name for n in tree(path).body if isinstance(n, ast.ClassDef)}
            for node in tree(path).body:
                if isinstance(node, ast.ClassDef) and node.name != root:
                    bases = {ast.unparse(base) for base in node.bases}
                    assert root not in bases or bases == {root}, f"{path.name}: {node.name}"
                    assert not {b for b in bases & mine if _derives(path, b, root)}, f"{path.name}: {node.name}"


def _derives(path: Path, name: str, root: str) -> bool:
    nodes = {n.name: n for n in tree(path).body if isinstance(n, ast.ClassDef)}
    bases = {ast.unparse(base) for base in nodes[name].bases} if name in nodes else set()
    return name != root and root in bases


def test_functions_and_files_stay_short() -> None:
    lengths = {}
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        assert sum(bool(line.strip()) for line in source.splitlines()) <= 300, f"{path.relative_to(ROOT)} is too long"
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f"{path.relative_to(ROOT)}:{node.name}"] = int(node.end_lineno or 0) - node.lineno + 1
    assert max(lengths.values()) <= 60, max(lengths, key=lambda name: lengths[name])
    assert median(lengths.values()) <= 12


@pytest.mark.parametrize("folder", ["methods", "plugins"])
def test_each_method_and_plugin_says_what_it_was_checked_against(folder: str) -> None:
    for path in modules(folder):
        if path.stem not in (
            "__init__",
            "base",
            "hosting",
            "promises",
            "wpl_boxes",
            "wpl_detector",
        ):  # parts, not papers
            text = ast.get_docstring(tree(path)) or ""
            assert "Paper" in text, path.name
            assert "hecked against" in text or "no release" in text.lower() or "No code" in text, path.name

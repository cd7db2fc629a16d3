"""Reads files of class names as label tools write them: one row a class, with its colour and its value where given.

Read are: one name a line (labelme, YOLO), a name and its colour in a line (`road 128 64 128`, `road #804080`), CVAT's
labelmap.txt (`road:128,64,128::`), tables with a header (Roboflow's _classes.csv, class_dict.csv), YAML and JSON lists
and mappings (Ultralytics' data.yaml, COCO's categories, Supervisely's meta.json, SuperAnnotate's classes.json).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssbench.errors import UsageError
from ssbench.files import read_json, read_text, read_yaml

FILES = (
    *("classes.txt", "classes.yaml", "classes.yml", "labels.txt", "class_names.txt", "labelmap.txt", "label_map.txt"),
    *("_classes.csv", "classes.csv", "class_dict.csv", "labels.csv", "labelmap.csv", "classes.json", "labels.json"),
    *("meta.json", "notes.json", "obj.names", "classes.names", "data.yaml"),
)
"""Files of class names that are looked for in a folder, in this order."""
VOID = ("ignore", "__ignore__")
"""Names that stand for 255, and are no classes; the second is labelme's."""
LARGEST = 1 << 18  # bytes of a classes file
LISTS = ("classes", "names", "categories", "labels", "labelmap", "tags")
"""Keys under which a YAML or JSON file may hold its list."""
NAME_KEYS = ("name", "class", "label", "title", "class name", "classname", "class_name", "tag")
VALUE_KEYS = ("pixel value", "value", "id", "index", "label id", "label_id", "pixel_value", "trainid", "class_id")
COLOUR_KEYS = ("color", "colour", "rgb", "color_rgb", "hex", "color_hex")
_LINE = re.compile(r"(?P<name>.*?)[\s,:;]+(?P<r>\d{1,3})[\s,;]+(?P<g>\d{1,3})[\s,;]+(?P<b>\d{1,3})")
_HEX = re.compile(r"(?P<name>.*?)[\s,:;]*(?P<hex>#[0-9a-fA-F]{6})")
_CVAT = re.compile(r"(?P<name>[^:]*):(?P<r>\d{1,3}),(?P<g>\d{1,3}),(?P<b>\d{1,3}):[^:]*:[^:]*")


@dataclass(frozen=True)
class ClassRow:
    """One class of a file: its name, its colour and the value that masks have for it, where the file gives them."""

    name: str
    colour: tuple[int, int, int] | None = None
    value: int | None = None


def read_rows(path: Path) -> list[ClassRow]:
    """The classes that `path` lists, in its order. UsageError for a file that cannot be read or holds none."""
    suffix, kind = path.suffix.lower(), f"file {path.name}"
    if suffix in (".yaml", ".yml"):
        return _from_value(read_yaml(path, kind, "mend it", UsageError, LARGEST), path)
    if suffix == ".json":
        return _from_value(read_json(path, kind, "mend it", UsageError, max_bytes=LARGEST), path)
    text = read_text(path, kind, "mend it", UsageError, LARGEST)
    return _from_table(text, path) if suffix == ".csv" else _from_lines(text, path)


def _from_lines(text: str, path: Path) -> list[ClassRow]:
    rows = []
    for line in map(str.strip, text.splitlines()):
        if not line or (line.startswith("#") and not _HEX.fullmatch(line)):
            continue
        match, coded = _CVAT.fullmatch(line) or _LINE.fullmatch(line), _HEX.fullmatch(line)
        if match:
            colour = _colour(match["name"], [int(match[c]) for c in "rgb"], path)
            rows.append(ClassRow(match["name"].strip(), colour))
        elif coded and coded["name"]:
            rows.append(ClassRow(coded["name"].strip(), _colour(coded["name"], coded["hex"], path)))
        else:
            rows.append(ClassRow(line))
    return rows


def _from_table(text: str, path: Path) -> list[ClassRow]:
    """A table; without a header that names a column of names, its lines are read as those of a text file."""
    lines = [line for line in csv.reader(text.splitlines(), skipinitialspace=True) if any(map(str.strip, line))]
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    if not set(header) & set(NAME_KEYS):
        return _from_lines(text, path)
    rows = []
    for line in lines[1:]:
        cells = dict(zip(header, map(str.strip, line), strict=False))
        name, value = _first(cells, NAME_KEYS), _first(cells, VALUE_KEYS)
        colour = [cells.get(c) or cells.get(c[0]) for c in ("red", "green", "blue")]
        given: Any = [int(c) for c in colour if c and c.isdigit()] if all(colour) else _first(cells, COLOUR_KEYS)
        if isinstance(given, str):
            given = given if given.startswith("#") else [int(n) for n in re.findall(r"\d+", given)] or None
        rows.append(ClassRow(str(name or ""), _colour(str(name), given, path), _value(value, path)))
    return rows


def _from_value(content: Any, path: Path) -> list[ClassRow]:
    """Classes of a parsed YAML or JSON file."""
    if isinstance(content, dict):
        content = next((content[key] for key in LISTS if content.get(key)), content)
    if isinstance(content, list):
        return [_from_entry(entry, path) for entry in content]
    if isinstance(content, dict) and content and all(re.fullmatch(r"\d{1,5}", str(key)) for key in content):
        numbered = sorted((int(key), name) for key, name in content.items())
        return [ClassRow(str(name), None, value) for value, name in numbered]
    if isinstance(content, dict) and content and all(_is_number(value) for value in content.values()):
        return [ClassRow(str(name), None, int(value)) for name, value in sorted(content.items(), key=lambda kv: kv[1])]
    if isinstance(content, dict):
        return [ClassRow(str(name), _colour(str(name), colour, path)) for name, colour in content.items()]
    raise UsageError(f"{path.name} holds no classes", str(path), "write a list of names, or name: [r, g, b] lines")


def _from_entry(entry: Any, path: Path) -> ClassRow:
    """One element of a list: a name, or a mapping with a name, and perhaps a colour and a value."""
    if not isinstance(entry, dict):
        return ClassRow(str(entry))
    cells = {str(key).lower(): value for key, value in entry.items()}
    name = _first(cells, NAME_KEYS)
    if name is None:
        what = f"{path.name} lists a class without a name: {str(entry)[:80]}"
        raise UsageError(what, str(path), "each needs `name`, and may have `color` and `value`")
    value = next((cells[key] for key in ("value", "pixel_value", "trainid") if _is_number(cells.get(key))), None)
    return ClassRow(str(name), _colour(str(name), _first(cells, COLOUR_KEYS), path), value)


def _first(cells: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """The value of the first of `keys` that is there and not empty."""
    return next((cells[key] for key in keys if cells.get(key) not in (None, "")), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _value(given: Any, path: Path) -> int | None:
    if given is None:
        return None
    try:
        return int(given)
    except ValueError:
        raise UsageError(f"{given!r} is no value of a mask", str(path), "a whole number for each class") from None


def _colour(name: str, given: Any, path: Path) -> tuple[int, int, int] | None:
    """A colour from three numbers or from #rrggbb; UsageError for anything else."""
    if given is None:
        return None
    if isinstance(given, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", given):
        given = [int(given[at : at + 2], 16) for at in (1, 3, 5)]
    if isinstance(given, list | tuple) and len(given) == 3 and all(_is_number(c) and 0 <= c < 256 for c in given):
        return given[0], given[1], given[2]
    raise UsageError(f"'{name}': {given!r} is no colour", str(path), "three numbers of 0 to 255: red, green, blue")

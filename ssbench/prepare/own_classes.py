"""What the values or colours of a user's masks mean: class names, a colour table, values to be changed.

Files of class names are read as label tools write them: one name a line (labelme, YOLO), a name and its colour in a
line (`road 128 64 128`, `road #804080`), CVAT's labelmap.txt (`road:128,64,128::`), tables with a header (Roboflow's
_classes.csv, class_dict.csv), YAML and JSON lists and mappings (Ultralytics' data.yaml, COCO's categories,
Supervisely's meta.json, SuperAnnotate's classes.json).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssbench.data.dataset import IGNORE
from ssbench.data.voc import bit_palette
from ssbench.errors import UsageError
from ssbench.files import read_json, read_text, read_yaml

Color: TypeAlias = tuple[int, int, int]
MOST = 255
NAN, OTHER, TRANSPARENT = "nan", "other", "transparent"
"""Words that stand for values in --map: no number, every value without a meaning, pixels of alpha 0."""
VAGUE = ("void", "unlabeled", "unlabelled", "unknown", "none", "ignored", "ignore_index", "dontcare")
"""Names that often stand for ignored pixels, and may be classes: a first class of this name gets a note."""
BLOCK = 1 << 14
"""Colours compared at a time: a photograph as a mask has a million."""

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


@dataclass(frozen=True)
class ClassMap:
    """Class names in order of the label; the colour of each, where given; value -> label for values to be changed.

    `void`: the colour of ignored pixels in colour-coded masks. `words`: labels of NAN, OTHER and TRANSPARENT.
    `is_named`: False where nobody said what the classes are; then every value from 0 to 255 counts as known, so that
    an import can say everything else that is wrong. `notes`: how the file of classes was understood.
    """

    names: tuple[str, ...]
    colours: tuple[Color, ...] = ()
    void: Color | None = None
    values: Mapping[int, int] = field(default_factory=dict)
    words: Mapping[str, int] = field(default_factory=dict)
    is_named: bool = True
    is_complete: bool = False
    notes: tuple[str, ...] = ()

    @property
    def palette(self) -> tuple[Color, ...]:
        """A colour for each class: its own, or VOC's."""
        return self.colours or bit_palette(len(self.names))

    @cached_property
    def table(self) -> NDArray[np.uint8]:
        """Label of each of the 256 values; a value without a meaning stays, or is what `other` says."""
        table, anchors = np.arange(256, dtype=np.uint8), self.anchors
        for value in range(256):
            if value in self.values:
                table[value] = self.values[value]
            elif OTHER in self.words and value not in anchors:
                table[value] = self.words[OTHER]
        return table

    def is_known(self, value: float) -> bool:
        """Whether a value of the user's masks ends as a class or as 255."""
        if not self.is_named and 0 <= value <= IGNORE and value == int(value):
            return True
        if self.is_complete and value != IGNORE:
            return value in self.values
        label = self.values[int(value)] if value == int(value) and int(value) in self.values else value
        return label == IGNORE or (0 <= label < len(self.names) and label == int(label))

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """The values that mean something, where others are edges between them: those of --map, and each label.

        Where --map gives every class but 0 another value (0 and 255, 0 100 200), the labels themselves mean nothing.
        """
        if self.is_complete:
            return tuple(sorted({*self.values, IGNORE}))
        renamed = set(self.values.values())
        renamed = renamed if renamed >= set(range(1, len(self.names))) else set()
        ours = (label for label in (*range(len(self.names)), IGNORE) if label not in renamed)
        return tuple(sorted({*self.values, *(label for label in ours if label not in self.values)}))

    def decode(self, pixels: NDArray[np.uint8], nearest: bool = False) -> tuple[NDArray[np.uint8], dict[Color, int]]:
        """Labels [H, W] of a colour-coded mask [H, W, 3], and the colours not in the table with their pixels.

        nearest: a colour that is not in the table becomes the one closest to it, and none is left over.
        """
        packed = pack(pixels)
        known = {pack(np.array(colour)): label for label, colour in enumerate(self.colours)}
        known |= {pack(np.array(self.void)): IGNORE} if self.void else {}
        colours, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
        if nearest and known:
            keys = np.array(list(known))
            targets = np.stack([keys >> 16, keys >> 8 & 255, keys & 255], 1)
            own = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
            blocks = (own[at : at + BLOCK // 64, None, :] for at in range(0, len(own), BLOCK // 64))
            close = np.concatenate([((block - targets[None]) ** 2).sum(2).argmin(1) for block in blocks])
            labels = np.array(list(known.values()), np.uint8)[close]
            return labels[places].reshape(packed.shape), {}
        labels = np.array([known.get(int(c), self.words.get(OTHER, IGNORE)) for c in colours], np.uint8)
        strange = {unpack(int(c)): int(n) for c, n in zip(colours, counts, strict=True) if int(c) not in known}
        return labels[places].reshape(packed.shape), {} if OTHER in self.words else strange


def pack(pixels: NDArray[Any]) -> Any:
    """Red, green and blue as one number each."""
    wide = pixels.astype(np.int32)
    packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed if packed.ndim else int(packed)


def unpack(packed: int) -> Color:
    """Red, green and blue of a packed colour."""
    return packed >> 16, packed >> 8 & 255, packed & 255


def read_classmap(given: str | None, folder: Path, changes: Iterable[str]) -> ClassMap:
    """The class map from `--classes` (names with commas, or a file), else from a classes file in `folder`.

    Files of the usual label tools are read; see the head of this module. The names "ignore" and `__ignore__`
    stand for 255. `changes` are "11=255" each, or several with commas.

    Raises:
        UsageError: a file or a change that makes no sense. Where there are no names at all the map is not `is_named`.
    """
    if given is not None and Path(given).suffix.lower() in (".txt", ".yaml", ".yml", ".csv", ".json", ".names"):
        return _with_changes(_class_map(read_rows(Path(given)), given), changes)
    if given is not None:
        rows = [ClassRow(name.strip()) for name in given.split(",")]
        return _with_changes(_class_map(rows, "--classes"), changes)
    path = find_file([folder])
    return _with_changes(
        ClassMap((), is_named=False) if path is None else _class_map(read_rows(path), str(path)), changes
    )


def find_file(folders: Iterable[Path]) -> Path | None:
    """The file of classes in the first of `folders` that has one. UsageError where those of several folders differ."""
    paths = [next((folder / name for name in FILES if (folder / name).is_file()), None) for folder in folders]
    files = [path for path in paths if path is not None]
    for path in files[1:]:
        if path.read_bytes() != files[0].read_bytes():
            what = f"{files[0].name} and {path.name} of two folders differ"
            raise UsageError(what, f"{files[0]}, {path}", "--classes FILE, with the one that holds")
    return files[0] if files else None


def unnamed_error(folder: Path, labels: Sequence[int]) -> UsageError:
    """The error for classes without names; `labels`: those that the masks hold, for a line to paste."""
    names = ",".join(f"class{k}" for k in range(max(labels, default=-1) + 1)) or "background,road,..."
    fix = f"--classes {names}   (your names, in order of the label values), or write {folder / FILES[0]}, one a line"
    return UsageError("the classes have no names", str(folder), fix)


def _class_map(rows: list[ClassRow], where: str) -> ClassMap:
    ignored = [row for row in rows if row.name in VOID]
    classes = [row for row in rows if row.name not in VOID]
    names = tuple(row.name for row in classes)
    if not 0 < len(names) <= MOST or "" in names:
        raise UsageError(f"{len(names)} class names, 1 to {MOST} are needed, none empty", where, "mend the list")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise UsageError(f"class '{twice[0]}' stands twice", where, "give each class a name of its own")
    colours = tuple(row.colour for row in classes if row.colour is not None)
    if colours and len(colours) != len(classes):
        bare = next(row.name for row in classes if row.colour is None)
        raise UsageError(f"class '{bare}' has no colour, others have", where, "give every class a colour, or none")
    void = next((row.colour for row in ignored if row.colour is not None), None)
    twice = [str(colour) for colour, n in Counter((*colours, *([void] if void else []))).items() if n > 1]
    if twice:
        raise UsageError(f"two classes have the colour {twice[0]}", where, "give each its own")
    values = {row.value: label for label, row in enumerate(classes) if row.value is not None}
    values |= {row.value: IGNORE for row in ignored if row.value is not None}
    if values and len(values) < sum(row.value is not None for row in rows):
        raise UsageError("two classes have the same value", where, "give each its own")
    notes = [f"'{row.name}' stands for ignored pixels (255) and is no class" for row in ignored if row.name != "ignore"]
    moved = {value: label for value, label in values.items() if value != label}
    if moved:
        renamed = ", ".join(f"{value} is {'ignored' if label == IGNORE else label}" for value, label in moved.items())
        notes.append(f"the file of classes gives values of its own: {renamed}")
    is_complete = bool(moved) and all(row.value is not None for row in classes)
    return ClassMap(names, colours, void, values if moved else {}, is_complete=is_complete, notes=tuple(notes))


def _with_changes(classes: ClassMap, changes: Iterable[str]) -> ClassMap:
    """`classes` with the changes of --map; they win over the file's own values."""
    values, words = dict(classes.values), dict(classes.words)
    for text in (part for change in changes for part in change.split(",")):
        value, label = _change(text, len(classes.names) if classes.is_named else MOST)
        if isinstance(value, str):
            words[value] = label
        else:
            values[value] = label
    return replace(classes, values=values, words=words)


def _change(text: str, classes: int) -> tuple[int | str, int]:
    match = re.fullmatch(rf"(-?\d{{1,10}}|{NAN}|{OTHER}|{TRANSPARENT})=(\d{{1,3}})", text.strip(), re.ASCII)
    label = int(match[2]) if match else -1
    if match is None or not (0 <= label < classes or label == IGNORE):
        fix = f"for instance --map 11=255; labels are 0..{classes - 1} and 255 (ignored)"
        raise UsageError(f"--map {text!r} is not VALUE=LABEL", "--map", fix)
    return match[1] if match[1] in (NAN, OTHER, TRANSPARENT) else int(match[1]), label


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

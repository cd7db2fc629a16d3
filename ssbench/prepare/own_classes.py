"""Reads what the values or colours of a user's masks mean: class names, a colour table, values to be changed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssbench.data.dataset import IGNORE
from ssbench.data.voc import bit_palette
from ssbench.errors import UsageError
from ssbench.files import read_text, read_yaml

Color: TypeAlias = tuple[int, int, int]
FILES = ("classes.txt", "classes.yaml", "classes.yml")
VOID = "ignore"
"""The name that stands for 255 in a colour table, and is no class."""
MOST = 255
LARGEST = 1 << 18  # bytes of a classes file
_LINE = re.compile(r"(?P<name>.*?)[\s,:;]+(?P<r>\d{1,3})[\s,;]+(?P<g>\d{1,3})[\s,;]+(?P<b>\d{1,3})")


@dataclass(frozen=True)
class ClassMap:
    """Class names in order of the label; the colour of each, where given; value -> label for values to be changed.

    `void`: the colour of ignored pixels in colour-coded masks.
    """

    names: tuple[str, ...]
    colours: tuple[Color, ...] = ()
    void: Color | None = None
    values: Mapping[int, int] = field(default_factory=dict)

    @property
    def palette(self) -> tuple[Color, ...]:
        """A colour for each class: its own, or VOC's."""
        return self.colours or bit_palette(len(self.names))

    def table(self) -> NDArray[np.uint8]:
        """Label of each of the 256 values."""
        table = np.arange(256, dtype=np.uint8)
        for value, label in self.values.items():
            table[value] = label
        return table

    def is_known(self, value: int) -> bool:
        """Whether a value of the user's masks ends as a class or as 255."""
        label = self.values.get(value, value)
        return label < len(self.names) or label == IGNORE

    def decode(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], dict[Color, int]]:
        """Labels [H, W] of a colour-coded mask [H, W, 3], and the colours not in the table with their pixels."""
        packed = _packed(pixels)
        known = {_packed(np.array(colour)): label for label, colour in enumerate(self.colours)}
        known |= {_packed(np.array(self.void)): IGNORE} if self.void else {}
        colours, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
        labels = np.array([known.get(int(c), IGNORE) for c in colours], np.uint8)
        strange = {_colour(int(c)): int(n) for c, n in zip(colours, counts, strict=True) if int(c) not in known}
        return labels[places].reshape(packed.shape), strange


def _packed(pixels: NDArray[Any]) -> Any:
    """Red, green and blue as one number each."""
    wide = pixels.astype(np.int32)
    packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed if packed.ndim else int(packed)


def _colour(packed: int) -> Color:
    return packed >> 16, packed >> 8 & 255, packed & 255


def read_classmap(given: str | None, folder: Path, changes: Iterable[str]) -> ClassMap:
    """The class map from `--classes` (names with commas, or a file), else from a classes file in `folder`.

    A text file has a class a line, in order of the label, with its colour behind it where masks are colour-coded
    (`road 128 64 128`); a YAML file a list of names, a mapping label -> name, or a mapping name -> [r, g, b]. The name
    "ignore" stands for 255. `changes` are "11=255" each. Raises UsageError for anything else.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if given is not None and Path(given).suffix in (".txt", ".yaml", ".yml"):
        path = Path(given)
    elif given is not None:
        return _class_map([(name.strip(), None) for name in given.split(",")], "--classes", changes)
    if path is None:
        fix = f"--classes background,road,... in order of the label values, or write {folder / FILES[0]}, one a line"
        raise UsageError("the classes have no names", str(folder), fix)
    return _class_map(_from_text(path) if path.suffix == ".txt" else _from_yaml(path), str(path), changes)


def _from_text(path: Path) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for line in map(str.strip, read_text(path, f"file {path.name}", "mend it", UsageError, LARGEST).splitlines()):
        if line and not line.startswith("#"):
            match = _LINE.fullmatch(line)
            rows.append((match["name"].strip(), [int(match[c]) for c in "rgb"]) if match else (line, None))
    return rows


def _from_yaml(path: Path) -> list[tuple[str, Any]]:
    content = read_yaml(path, f"file {path.name}", "mend it", UsageError, LARGEST)
    content = content.get("classes", content) if isinstance(content, dict) else content
    if isinstance(content, list):
        return [(str(name), None) for name in content]
    if isinstance(content, dict) and sorted(map(str, content)) == sorted(map(str, range(len(content)))):
        return [(str(name), None) for _, name in sorted(content.items(), key=lambda item: int(item[0]))]
    if isinstance(content, dict):
        return [(str(name), colour) for name, colour in content.items()]
    raise UsageError(f"{path.name} holds no classes", str(path), "write a list of names, or name: [r, g, b] lines")


def _class_map(rows: list[tuple[str, Any]], where: str, changes: Iterable[str]) -> ClassMap:
    coloured = [(name, _as_colour(name, colour, where)) for name, colour in rows]
    void = next((colour for name, colour in coloured if name == VOID), None)
    classes = [row for row in coloured if row[0] != VOID]
    names = tuple(name for name, _ in classes)
    if not 0 < len(names) <= MOST or "" in names:
        raise UsageError(f"{len(names)} class names, 1 to {MOST} are needed, none empty", where, "mend the list")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise UsageError(f"class '{twice[0]}' stands twice", where, "give each class a name of its own")
    colours = tuple(colour for _, colour in classes if colour is not None)
    if colours and len(colours) != len(classes):
        bare = next(name for name, colour in classes if colour is None)
        raise UsageError(f"class '{bare}' has no colour, others have", where, "give every class a colour, or none")
    twice = [str(colour) for colour, n in Counter((*colours, *([void] if void else []))).items() if n > 1]
    if twice:
        raise UsageError(f"two classes have the colour {twice[0]}", where, "give each its own")
    return ClassMap(names, colours, void, dict(_change(text, len(names)) for text in changes))


def _as_colour(name: str, given: Any, where: str) -> Color | None:
    if given is None:
        return None
    if isinstance(given, list | tuple) and len(given) == 3 and all(isinstance(c, int) and 0 <= c < 256 for c in given):
        return given[0], given[1], given[2]
    raise UsageError(f"'{name}': {given!r} is no colour", where, "three numbers of 0 to 255: red, green, blue")


def _change(text: str, classes: int) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,3})=(\d{1,3})", text.strip())
    value, label = (int(n) for n in match.groups()) if match else (-1, -1)
    if not (0 <= value < 256 and (0 <= label < classes or label == IGNORE)):
        fix = f"for instance --map 11=255; labels are 0..{classes - 1} and 255 (ignored)"
        raise UsageError(f"--map {text!r} is not VALUE=LABEL", "--map", fix)
    return value, label

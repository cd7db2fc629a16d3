"""What the values, or colours, of a user's masks mean: class names, a colour table, and values to be changed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

from ssbench.data.dataset import IGNORE
from ssbench.data.voc import bit_palette
from ssbench.errors import UsageError

Color: TypeAlias = tuple[int, int, int]
FILES = ("classes.txt", "classes.yaml", "classes.yml")
VOID = "ignore"
"""The name that stands for 255 in a colour table, and is no class."""
MOST = 255
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

    def known(self, value: int) -> bool:
        """Whether a value of the user's masks ends as a class or as 255."""
        label = self.values.get(value, value)
        return label < len(self.names) or label == IGNORE

    def decode(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], dict[Color, int]]:
        """Labels [H, W] of a colour-coded mask [H, W, 3], and the colours not in the table with their pixels."""
        packed = _packed(pixels)
        known = {_packed(np.array(colour)): label for label, colour in enumerate(self.colours)}
        known |= {_packed(np.array(self.void)): IGNORE} if self.void else {}
        found, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
        labels = np.array([known.get(int(c), IGNORE) for c in found], np.uint8)
        strange = {_colour(int(c)): int(n) for c, n in zip(found, counts, strict=True) if int(c) not in known}
        return labels[where].reshape(packed.shape), strange


def _packed(pixels: NDArray[Any]) -> Any:
    wide = pixels.astype(np.int32)
    found = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return found if found.ndim else int(found)


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
        return _made([(name.strip(), None) for name in given.split(",")], "--classes", changes)
    if path is None:
        fix = f"--classes background,road,... in order of the label values, or write {folder / FILES[0]}, one a line"
        raise UsageError("the classes have no names", str(folder), fix)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}", str(path), "check the path") from error
    return _made(_from_text(text) if path.suffix == ".txt" else _from_yaml(text, path), str(path), changes)


def _from_text(text: str) -> list[tuple[str, Any]]:
    lines = (line.strip() for line in text.splitlines())
    return [_from_line(line) for line in lines if line and not line.startswith("#")]


def _from_line(line: str) -> tuple[str, Any]:
    found = _LINE.fullmatch(line)
    return (found["name"].strip(), [int(found[c]) for c in "rgb"]) if found else (line, None)


def _from_yaml(text: str, path: Path) -> list[tuple[str, Any]]:
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path.name} is not YAML: {error}", str(path), "mend it") from error
    said = said.get("classes", said) if isinstance(said, dict) else said
    if isinstance(said, list):
        return [(str(name), None) for name in said]
    if isinstance(said, dict) and sorted(map(str, said)) == sorted(map(str, range(len(said)))):
        return [(str(name), None) for _, name in sorted(said.items(), key=lambda item: int(item[0]))]
    if isinstance(said, dict):
        return [(str(name), colour) for name, colour in said.items()]
    raise UsageError(f"{path.name} holds no classes", str(path), "write a list of names, or name: [r, g, b] lines")


def _made(rows: list[tuple[str, Any]], where: str, changes: Iterable[str]) -> ClassMap:
    coloured = [(name, _as_colour(name, colour, where)) for name, colour in rows]
    void = next((colour for name, colour in coloured if name == VOID), None)
    classes = [row for row in coloured if row[0] != VOID]
    names = tuple(name for name, _ in classes)
    _fit(names, where)
    colours = tuple(colour for _, colour in classes if colour is not None)
    if colours and len(colours) != len(classes):
        bare = next(name for name, colour in classes if colour is None)
        raise UsageError(f"class '{bare}' has no colour, others have", where, "give every class a colour, or none")
    twice = [str(colour) for colour, n in Counter((*colours, *([void] if void else []))).items() if n > 1]
    if twice:
        raise UsageError(f"two classes have the colour {twice[0]}", where, "give each its own")
    return ClassMap(names, colours, void, dict(_change(text, len(names)) for text in changes))


def _fit(names: tuple[str, ...], where: str) -> None:
    if not 0 < len(names) <= MOST or "" in names:
        raise UsageError(f"{len(names)} class names, 1 to {MOST} are needed, none empty", where, "mend the list")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise UsageError(f"class '{twice[0]}' stands twice", where, "give each class a name of its own")


def _as_colour(name: str, given: Any, where: str) -> Color | None:
    if given is None:
        return None
    if isinstance(given, list | tuple) and len(given) == 3 and all(isinstance(c, int) and 0 <= c < 256 for c in given):
        return given[0], given[1], given[2]
    raise UsageError(f"'{name}': {given!r} is no colour", where, "three numbers of 0 to 255: red, green, blue")


def _change(text: str, classes: int) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,3})=(\d{1,3})", text.strip())
    value, label = (int(n) for n in found.groups()) if found else (-1, -1)
    if not (0 <= value < 256 and (0 <= label < classes or label == IGNORE)):
        fix = f"for instance --map 11=255; labels are 0..{classes - 1} and 255 (ignored)"
        raise UsageError(f"--map {text!r} is not VALUE=LABEL", "--map", fix)
    return value, label

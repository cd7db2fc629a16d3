"""Reads lists of images as people have them: a line may hold an id, a path, or several columns with one of them.

The published lists have formats of their own (`ssbench.splits.lists`). A list of one's own comes out of pandas, a
label tool, another code base or a shell; each line is held against the ids that the dataset has.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from ssbench.errors import DataError
from ssbench.files import read_text
from ssbench.splits.lists import IDS

FIRST = 3
"""Ids or lines that a message shows."""
LARGEST = 1 << 26  # bytes of a list; COCO's are below 4 MB
_SIGNS = re.compile(r"[\t,;|]|\s{1,}")
_HEADER = re.compile(
    r"((image|img|mask|file|label)?_?(ids?|names?|paths?|files?|images?|masks?|labels?|stems?)|split|unnamed:|\d)",
    re.IGNORECASE,
)
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class ResolvedList:
    """The ids of a list in its order, where each stands (line), lines that name no known image, and notes."""

    ids: tuple[str, ...]
    lines: tuple[int, ...]
    unknown: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]

    def refuse_twice(self, where: Path) -> None:
        """DataError where an id stands twice."""
        seen: dict[str, int] = {}
        for id, number in zip(self.ids, self.lines, strict=True):
            if id in seen:
                what = f"'{id}' stands here twice, first on line {seen[id]}"
                raise DataError(what, f"{where}:{number}", "remove one")
            seen[id] = number


def read_list_text(path: Path, fix: str) -> str:
    """The text of a list. DataError for one that is not there, or not UTF-8, with the command that converts UTF-16."""
    if not path.is_file():
        raise DataError(f"{path.name} is not there", str(path), fix)
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(_UTF16) or (head and head[1::2].count(0) > len(head) // 4):
        convert = f"iconv -f UTF-16 -t UTF-8 '{path}' > '{path}.utf8' && mv '{path}.utf8' '{path}'"
        raise DataError(f"list {path.name} is UTF-16 text, as PowerShell writes it; UTF-8 is read", str(path), convert)
    return read_text(path, f"list {path.name}", fix, max_bytes=LARGEST)


def known_ids(root: Path) -> dict[str, frozenset[str]]:
    """Subset -> ids of the prepared dataset in `root`, by its lists; {} where it is not prepared."""
    lists = {subset: root / f"{subset}.txt" for subset in ("train", "val", "test")}
    if not lists["train"].is_file():
        return {}
    return {
        subset: frozenset(filter(None, map(str.strip, read_text(path, f"list {path.name}", "").splitlines())))
        for subset, path in lists.items()
        if path.is_file()
    }


def resolve(text: str, known: Collection[str], dataset: str = "") -> ResolvedList:
    """The ids that the lines of `text` stand for.

    Understood are: endings, folders before a name, a leading slash, backslashes, quotes, further columns, comment lines
    (#), a header line, a column of running numbers, other capitals and decomposed Unicode. Where columns of a line name
    different images, the one that is not a running number counts, else the first.
    """
    names = _Names(known, dataset)
    rows = [(number, line) for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1) if line.strip()]
    rows = [(number, line) for number, line in rows if not line.lstrip().startswith("#") or line.strip() in names.known]
    index = _index_column([line for _, line in rows], names)
    ids, lines, unknown, notes = [], [], [], []
    for number, line in rows:
        id = names.find(line, index)
        if id is None:
            unknown.append((number, line.strip()))
        else:
            ids.append(id)
            lines.append(number)
    if unknown and ids and unknown[0][0] == rows[0][0] and _is_header(unknown[0][1], names):
        notes.append(f"line {unknown[0][0]} is read as a header: {unknown[0][1][:60]!r}")
        unknown = unknown[1:]
    if names.folded:
        notes.append(f"{names.folded} ids are written in other capitals")
    return ResolvedList(tuple(ids), tuple(lines), tuple(unknown), tuple(notes))


def unknown_error(lists: ResolvedList, known: Collection[str], dataset: str, where: Path) -> DataError:
    """The error for lines that name no image of the dataset: how many, the first three, and what is nearest."""
    first = lists.unknown[:FIRST]
    shown = ", ".join(f"'{text[:80]}' (line {number})" for number, text in first)
    rest = f" and {len(lists.unknown) - FIRST} more" if len(lists.unknown) > FIRST else ""
    total = len(lists.unknown) + len(lists.ids)
    what = f"{where.name}: {len(lists.unknown)} of {total} lines name no image of {dataset}: {shown}{rest}"
    text = first[0][1]
    members = sorted(id for id in known if id.startswith((f"{text}_", f"{text}/")))
    if members:
        fix = f"'{text}' is a whole volume or folder; list its {len(members)} images: {', '.join(members[:FIRST])}, ..."
    elif close := get_close_matches(text, list(known), n=1, cutoff=0.5):
        fix = f"nearest known: '{close[0]}'; mend these lines, or take them out"
    else:
        fix = f"ids of {dataset} look like: {', '.join(sorted(known)[:FIRST])}; is the list of another dataset?"
    return DataError(what, f"{where}:{first[0][0]}", fix)


class _Names:
    """The ids of a dataset, and the ways to write one."""

    def __init__(self, known: Collection[str], dataset: str) -> None:
        self.known = known if isinstance(known, set | frozenset) else frozenset(known)
        self.pattern = re.compile(IDS[dataset], re.ASCII) if dataset in IDS else None
        self.folded = 0
        counts = Counter(map(str.casefold, self.known))
        self._by_fold = {id.casefold(): id for id in self.known if counts[id.casefold()] == 1}

    def find(self, line: str, index: int | None) -> str | None:
        """The id that a line stands for, or None. `index`: the column of running numbers."""
        cells = _cells(line)
        for cell in [line, *(cell for k, cell in enumerate(cells) if k != index)] if len(cells) > 1 else [line]:
            if id := self.exact(cell):
                return id
        for cell in cells:
            for form in _forms(cell):
                if id := self._by_fold.get(form.casefold()):
                    self.folded += 1
                    return id
        return None

    def exact(self, cell: str) -> str | None:
        """The id that a cell holds, as it is written."""
        for form in _forms(cell):
            if form in self.known:
                return form
            match = self.pattern.search(PurePosixPath(form).name) if self.pattern else None
            if match and (match[0] in self.known or not self.known):
                return match[0]
        return None


def _cells(line: str) -> list[str]:
    return [cell for cell in _SIGNS.split(line.strip()) if cell]


def _forms(cell: str) -> Iterator[str]:
    """What a cell may stand for: itself, without quotes, without its ending, without the folders before it."""
    plain = unicodedata.normalize("NFC", cell.strip())
    yield plain
    plain = plain.strip("\"'").strip().replace("\\", "/")
    plain = plain.removeprefix("./").lstrip("/")
    while plain:
        yield plain
        yield _ENDING.sub("", plain)
        _, _, plain = plain.partition("/")


def _index_column(lines: list[str], names: _Names) -> int | None:
    """0 where the first column counts the lines (pandas' index) and is not what names the images."""
    rows = [_cells(line) for line in lines]
    rows = [cells for cells in rows if len(cells) > 1 and cells[0].isdigit()]
    if not rows or len(rows) < len(lines) - 1:
        return None
    numbers = [int(cells[0]) for cells in rows]
    counts = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1)
    named = sum(any(names.exact(cell) for cell in cells[1:]) for cells in rows)
    return 0 if counts and named else None


def _is_header(line: str, names: _Names) -> bool:
    """Whether a first line that names no image is a header: words alone, and no path and no id of the usual form."""
    words = _cells(line.replace('"', "")) or [""]
    return all(_HEADER.fullmatch(word) for word in words) and not any(names.exact(word) for word in words)

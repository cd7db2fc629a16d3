"""What is wrong with a user's folder: findings one by one, and grouped by kind with the option that mends each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ssbench.files import shown

FIRST = 3
"""Files that a group of findings names."""
SKIPPABLE = {
    *("unreadable", "lossy", "mode", "alpha", "bands", "depth", "size", "no-mask", "no-image", "name", "pages", "exif"),
    *("number", "layer"),
}
"""Kinds that concern single files, which --skip-bad leaves out."""
TITLES = {
    "unreadable": "files that cannot be read",
    "lossy": "masks are JPEGs",
    "mode": "pictures of a form that is not read",
    "alpha": "pictures with transparency",
    "bands": "pictures of several bands",
    "depth": "pictures of more than 8 bits a sample",
    "size": "images of another size than their mask",
    "exif": "pictures that EXIF turns",
    "no-mask": "images without a mask",
    "no-image": "masks without an image",
    "name": "names that cannot be ids",
    "duplicate": "ids that stand twice",
    "stray": "files that are not read",
    "pages": "files of several pages",
    "value": "masks with values that are no class",
    "number": "masks of numbers that are no labels",
    "colour": "masks with colours that are no class",
    "palette": "masks whose palettes differ",
    "layers": "masks that look like layers",
    "layer": "layers of no class",
    "list": "lines of lists that fit no image",
    "classes": "folders without class names",
    "not-listed": "images in no list",
}
"""What each kind is about, in words for the line of a group."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a user's folder: its kind, where, the details, and the option that mends it ("" for none).

    files: how many files it is about, where it stands for several.
    """

    kind: str
    path: str
    detail: str
    option: str = ""
    files: int = 1

    @classmethod
    def at(cls, path: Path | None, kind: str, detail: str, option: str = "", files: int = 1) -> Self:
        """A finding at a path, which is printed even where its bytes are no text."""
        return cls(kind, shown(path or ""), detail, option, files)


@dataclass(frozen=True)
class FindingGroup:
    """All findings of one kind: their number, the first files, the details of the first, what mends them."""

    kind: str
    count: int
    paths: tuple[str, ...]
    detail: str
    option: str

    def line(self, folder: str) -> str:
        """The group in one line; paths are shown below `folder`."""
        names = ", ".join(path.removeprefix(f"{folder}/") for path in self.paths)
        rest = f" and {self.count - len(self.paths)} more" if self.count > len(self.paths) else ""
        mend = f"   [{self.option}]" if self.option else ""
        return f"{self.kind}: {TITLES.get(self.kind, 'findings')}: {self.count} ({names}{rest}): {self.detail}{mend}"


def group_findings(findings: Iterable[Finding]) -> list[FindingGroup]:
    """The findings by kind, most frequent first. --skip-bad mends what concerns single files and has no option."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    groups = []
    for kind, members in kinds.items():
        options = list(dict.fromkeys(finding.option for finding in members if finding.option))
        option = " ".join(options[:6]) or ("--skip-bad" if kind in SKIPPABLE else "")
        paths = tuple(finding.path for finding in members[:FIRST])
        count = sum(finding.files for finding in members)
        details = list(dict.fromkeys(finding.detail for finding in members))  # few that differ are all given
        rest = f"; and {len(details) - FIRST} more of this kind" if len(details) > FIRST else ""
        groups.append(FindingGroup(kind, count, paths, "; ".join(details[:FIRST]) + rest, option))
    return sorted(groups, key=lambda group: -group.count)


def options_of(groups: Iterable[FindingGroup]) -> str:
    """The options that mend all groups, in one line to be pasted; "" where one of them has none."""
    options = [group.option for group in groups]
    words = [f"--{word}" for option in options for word in f" {option}".split(" --")[1:]]
    return " ".join(dict.fromkeys(words)) if all(options) else ""

"""Groups of images that a draw must not tear apart: the slices of a patient, the frames of a video, a scene."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ssbench.errors import UsageError, first_few

LEAST = 3  # groups below which names are not said to look grouped
LONGEST = 200  # characters of a pattern


@dataclass(frozen=True)
class Grouping:
    """A pattern (a regular expression) whose match in an id names the id's group: its first bracket, else all of it."""

    pattern: str

    def __post_init__(self) -> None:
        """Refuse what is no regular expression."""
        try:
            if len(self.pattern) > LONGEST:
                raise re.error(f"longer than {LONGEST} characters")
            re.compile(self.pattern)
        except re.error as error:
            fix = r"for instance --group '(.+)_slice\d+'"
            raise UsageError(f"--group {self.pattern!r} is no pattern: {error}", "--group", fix) from None

    def find(self, id: str) -> str | None:
        """The group of an id, or None where the pattern does not occur in it."""
        match = re.search(self.pattern, id)
        if match is None:
            return None
        return match[1] if match.re.groups and match[1] is not None else match[0]

    def of(self, id: str) -> str:
        """The group of an id; the id itself where the pattern does not occur in it."""
        group = self.find(id)
        return id if group is None else group

    def check(self, ids: Collection[str]) -> int:
        """The number of groups. UsageError for ids without one, and where all ids are in one group."""
        groups = {id: self.find(id) for id in ids}
        without = sorted(id for id, group in groups.items() if not group)
        if without:
            what = f"--group {self.pattern!r} does not occur in {len(without)} of {len(ids)} ids: {first_few(without)}"
            raise UsageError(what, "--group", r"a pattern that is in every id: --group '(.+)_slice\d+'")
        count = len(set(groups.values()))
        if count < 2 <= len(ids):
            what = f"--group {self.pattern!r} puts all {len(ids)} ids into one group, '{next(iter(groups.values()))}'"
            raise UsageError(what, "--group", "a pattern that tells patients, scenes or videos apart")
        return count


def guess_grouping(ids: Iterable[str]) -> tuple[str, int] | None:
    """A pattern and its number of groups, where ids look grouped; None where they do not.

    They do where they lie in folders, or differ by a last number behind a name that has a number itself (patient03_07).
    """
    every = sorted(set(ids))
    prefixes = [re.sub(r"\d+\D*$", "", id) for id in every]
    candidates = []
    if sum("/" in id for id in every) == len(every):
        candidates.append("(.+)/")
    if len(every) > 1 and all(re.search(r"\d", prefix) for prefix in prefixes):
        ends = Counter(re.search(r"\D*$", prefix)[0] for prefix in prefixes)  # type: ignore[index]
        end, count = ends.most_common(1)[0]
        if count == len(every) and end:
            candidates.append(rf"(.+){re.escape(end)}\d+")
        candidates.append(r"(.*\d)\D+\d+")
    for pattern in candidates:
        groups = Counter(Grouping(pattern).find(id) for id in every)
        if None not in groups and len(groups) >= LEAST and 2 * len(groups) <= len(every):
            return pattern, len(groups)
    return None

"""What is wrong with the masks of a user's folder taken together: values and colours without a meaning, and what they
look like; and what was converted, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ssbench.data.ade20k import Ade20k
from ssbench.data.dataset import IGNORE
from ssbench.prepare.own_classes import NAN, VAGUE, ClassMap, Color
from ssbench.prepare.own_findings import FIRST, Finding
from ssbench.prepare.own_masks import ConvertRules, Value, is_settled
from ssbench.prepare.own_pairs import ImageMaskPair
from ssbench.prepare.own_samples import SampleStats
from ssbench.splits.lists import IDS

K = TypeVar("K", bound=Hashable)
COLOURS = 12
"""Unknown colours that are reported one by one."""
PEAK = 0.02  # ours: share of all pixels above which a value is meant, and no soft edge
LEVELS = 1 / 3  # ours: share of all pixels that the labels of masks with soft edges have at least
NOISE = 12  # ours: how far JPEG throws most values beyond those of a mask
LOST = 0.2  # ours: share of the pixels above which ignoring them is no advice to paste
FEW = 6  # unknown values that are proposed to be ignored one by one
SHOWN = 8  # values of a histogram


def findings_of(samples: Sequence[SampleStats], rules: ConvertRules) -> list[Finding]:
    """The findings of each sample, then those over all masks: values, colours, palettes, and 0 and 255 alone."""
    alone = [finding for sample in samples for finding in sample.findings]
    binary = list(_binary(samples, rules.classes)) or list(_one_too_high(samples, rules.classes))
    return [*alone, *(binary or _values(samples, rules)), *_colours(samples, rules.classes), *_palettes(samples, rules)]


def conversions_of(samples: Iterable[SampleStats]) -> dict[str, list[str]]:
    """What was converted -> ids of the images."""
    changes: dict[str, list[str]] = {}
    for sample in samples:
        for change in sample.changes:
            changes.setdefault(change, []).append(sample.pair.id)
    return changes


def conversion_notes(samples: Sequence[SampleStats]) -> Iterator[str]:
    """A line for each kind of conversion: how many images, and the first few."""
    for change, ids in conversions_of(samples).items():
        yield f"{change}: {len(ids)} ({', '.join(ids[:FIRST])}{', ...' if len(ids) > FIRST else ''})"
    overlapping = [sample for sample in samples if sample.overlap]
    if overlapping:
        pixels = sum(sample.overlap for sample in overlapping)
        yield f"layers overlap in {pixels} pixels of {len(overlapping)} images: the later class of the list wins there"


def class_notes(classes: ClassMap, images: Counter[int]) -> Iterator[str]:
    """Whether the names may be one place off: the last occur in no mask, and the first is a word for ignored pixels."""
    missing = [name for label, name in enumerate(classes.names) if not images[label]]
    if missing and classes.names[-1] == missing[-1] and classes.names[0].strip("_").casefold() in VAGUE:
        yield (
            f"the last name '{missing[-1]}' occurs in no mask, and the first is '{classes.names[0]}': if values count "
            "from the second name, call the first __ignore__"
        )


def _collected(counts: Iterable[tuple[ImageMaskPair, dict[K, int]]]) -> tuple[Counter[K], dict[K, list[Path | None]]]:
    """Pixels of each value over all masks, and the masks it occurs in."""
    pixels: Counter[K] = Counter()
    masks: dict[K, list[Path | None]] = {}
    for pair, values in counts:
        pixels.update(values)
        for value in values:
            masks.setdefault(value, []).append(pair.mask)
    return pixels, masks


def _values(samples: Sequence[SampleStats], rules: ConvertRules) -> Iterator[Finding]:
    """One finding for all values without a meaning, with a histogram and what it looks like."""
    pixels, masks = _collected((sample.pair, sample.values) for sample in samples)
    unknown = [value for value in pixels if not is_settled(value, rules)] or _levels_between(pixels, rules)
    if not unknown:
        return
    total, classes = sum(pixels.values()), rules.classes
    files = {str(path) for value in unknown for path in masks[value]}
    first = masks[max(unknown, key=lambda v: pixels[v])][0]
    looks, option = _guess(pixels, unknown, rules)
    which = f"value {unknown[0]} is" if len(unknown) == 1 else f"{len(unknown)} values are"
    detail = f"{which} no class: {sum(pixels[v] for v in unknown)} pixels in {len(files)} masks"
    if rules.nearest:
        detail += ", too many for soft edges between values that are classes"
    histogram = ", ".join(f"{value} {100 * n / total:.3g} %" for value, n in pixels.most_common(SHOWN))
    rest = f" and {len(pixels) - SHOWN} more" if len(pixels) > SHOWN else ""
    labels = f"classes are 0..{len(classes.names) - 1} and 255" if classes.is_named else "labels are 0..255"
    kind = "number" if all(isinstance(v, float) for v in unknown) else "value"
    yield Finding.at(first, kind, f"{detail}; all values: {histogram}{rest}; {labels}{looks}", option, len(files))


def _levels_between(pixels: Counter[Value], rules: ConvertRules) -> list[Value]:
    """Values that --nearest would change although they look like labels of their own: frequent, and few of them."""
    if not rules.nearest or not rules.classes.is_named:
        return []
    total, known = sum(pixels.values()), set(rules.classes.anchors)
    peaks = [v for v, n in pixels.items() if v not in known and v != NAN and n >= total * PEAK]
    return peaks if len(peaks) <= len(rules.classes.names) + 1 else []


def _guess(pixels: Counter[Value], unknown: Sequence[Value], rules: ConvertRules) -> tuple[str, str]:
    """What the values look like, and the options that would read them so; no option where classes would be lost."""
    total, names, anchors = sum(pixels.values()), rules.classes.names, set(rules.classes.anchors)
    whole = sorted(v for v in pixels if isinstance(v, int) and not (v < 0 or v in rules.classes.values))
    odd = sorted((v for v in pixels if not isinstance(v, int) or v < 0), key=str)
    peaks = [v for v in whole if pixels[v] >= total * PEAK]
    outside = [f"--map {v}=255" for v in odd if isinstance(v, str) or v < 0]
    edges = "soft edges between the labels (anti-aliased masks), or --map other=255 instead of --nearest ignores them"
    for values, looks, options in (
        (whole, "gaps in the labels", []),
        (peaks, edges, ["--nearest"]),
        (_levels(pixels, whole, len(names)), edges, ["--nearest"]),
    ):
        plain = [v for v in values if v != IGNORE]
        levels = plain if len(plain) == len(names) else values
        if len(levels) == len(names) > 1 and max(levels) >= len(names):
            maps = [f"--map {v}={k}" for k, v in enumerate(levels) if v != k]
            return f"; looks like {looks}", " ".join([*maps, *options, *outside])
    fractions = any(isinstance(v, float) and v >= 0 for v in odd)
    if peaks and set(peaks) <= anchors and (fractions or len(unknown) > FEW):
        return f"; looks like {edges}", " ".join(["--nearest", *outside])
    maps = [f"--map {v}=255" for v in sorted(unknown, key=str)] if len(unknown) <= FEW else ["--map other=255"]
    if sum(pixels[v] for v in unknown) > total * LOST:
        return "; give each its label with --map VALUE=LABEL", ""
    return f" ({' '.join(maps)} ignores {'it' if len(unknown) == 1 else 'them'})", " ".join(maps)


def _levels(pixels: Counter[Value], whole: Sequence[int], count: int) -> list[int]:
    """The `count` most frequent values, where all others lie between them as soft edges do; else []."""
    total = sum(pixels.values())
    most = sorted(sorted(whole, key=lambda v: -pixels[v])[:count])
    if len(most) < max(count, 1) or sum(pixels[v] for v in most) < total * LEVELS:
        return []
    beyond = sum(pixels[v] for v in whole if v < most[0] - NOISE or v > most[-1] + NOISE)
    return most if beyond <= total * 0.01 and all(pixels[v] >= total * PEAK for v in most) else []


def _colours(samples: Sequence[SampleStats], classes: ClassMap) -> Iterator[Finding]:
    pixels, masks = _collected((sample.pair, sample.strange) for sample in samples)
    if not pixels:
        return
    lines = [" ".join(map(str, colour)) for colour, _ in pixels.most_common(COLOURS)]
    if not classes.colours:
        detail = "is colour-coded, and the classes have no colours: write `name R G B` lines into classes.txt; "
        detail += f"{'; '.join(lines)} are the most frequent of {len(pixels)}"
        yield Finding.at(next(iter(masks.values()))[0], "colour", detail)
        return
    total = sum(sum(sample.labels.values()) for sample in samples)
    if len(pixels) > COLOURS and max(pixels.values()) / total < PEAK:
        detail = f"{len(pixels)} colours are no class: {sum(pixels.values())} pixels, none frequent: soft edges "
        detail += "(anti-aliased masks)? --nearest takes the nearest colour, --map other=255 ignores them"
        yield Finding.at(next(iter(masks.values()))[0], "colour", detail, "--nearest")
        return
    option = "--map other=255" if sum(pixels.values()) <= LOST * total else ""
    for colour, count in pixels.most_common(COLOURS):
        detail = f"colour {' '.join(map(str, colour))} is no class: {count} pixels in {len(masks[colour])} masks"
        detail += " (`ignore R G B` in classes.txt ignores it)"
        yield Finding.at(masks[colour][0], "colour", detail, option)


def _palettes(samples: Sequence[SampleStats], rules: ConvertRules) -> Iterator[Finding]:
    """Palette masks read by index although their colours differ from file to file, or beside others read by colour."""
    colours: dict[int, dict[Color, Path | None]] = {}
    for sample in samples:
        for index, colour in sample.palette:
            colours.setdefault(index, {}).setdefault(colour, sample.pair.mask)
    differing = {index: files for index, files in colours.items() if len(files) > 1 and index != IGNORE}
    if differing:
        index, files = min(differing.items())
        shown = ", ".join(" ".join(map(str, colour)) for colour in list(files)[:FIRST])
        detail = (
            f"palettes differ: index {index} has the colours {shown}, ...; give the classes their colours (`name R G "
        )
        detail += "B` lines in classes.txt) to read by colour, or --palette index where the index is the label"
        yield Finding.at(list(files.values())[1], "palette", detail, "--palette index")
    by_colour = sum(sample.kind == "palette by colour" for sample in samples)
    by_index = [sample for sample in samples if sample.palette]
    if by_colour and by_index:
        detail = f"{by_colour} palette masks use colours of the classes, {len(by_index)} use none: --palette colour or "
        yield Finding.at(by_index[0].pair.mask, "palette", f"{detail}--palette index", "--palette colour")


def _binary(samples: Sequence[SampleStats], classes: ClassMap) -> Iterator[Finding]:
    """Masks of 0 and 255 only: 255 means "ignored" here, and was hardly meant so."""
    values = {value for sample in samples for value in sample.values} - {NAN}
    if values == {0, IGNORE} and IGNORE not in classes.values:
        first = next(sample.pair.mask for sample in samples if IGNORE in sample.values)
        detail = "all masks hold 0 and 255 alone, and 255 means ignored: --map 255=1 makes it class 1"
        yield Finding.at(first, "value", f"{detail} (--map 255=255 if it is to be ignored)", "--map 255=1")


def _one_too_high(samples: Sequence[SampleStats], classes: ClassMap) -> Iterator[Finding]:
    """Masks of ADE20K's archive whose values would be taken as labels: there 0 is "other" and class k is k + 1.

    No value is unknown then where no mask holds the last class, so nothing else would be said (card: datasets 9).
    """
    ids = [sample for sample in samples if re.fullmatch(IDS["ade20k"], sample.pair.id.rpartition("/")[2])]
    values = {value for sample in ids for value in sample.values}
    if 2 * len(ids) > len(samples) and 0 in values and IGNORE not in values and classes.values.get(0) != IGNORE:
        detail = (
            f"these are masks of ADE20K: 0 means 'other' and 1..{len(Ade20k.classes)} are the classes, so each label "
        )
        detail += (
            "would be one too high (training on such masks gave 6.5 instead of 46.7 mIoU): ssbench prepare ade20k "
        )
        detail += "--source FOLDER reduces them by one"
        reduced = ",".join(["0=255", *(f"{label + 1}={label}" for label in range(len(classes.names)))])
        yield Finding.at(ids[0].pair.mask, "value", detail, f"--map {reduced}" if classes.is_named else "")

"""What is wrong with the masks of a user's folder taken together: values and colours without a meaning, and what they
look like; and what was converted, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ssbench.data.dataset import IGNORE
from ssbench.prepare.own_classes import NAN, VAGUE, ClassMap, Color
from ssbench.prepare.own_findings import FIRST, Finding
from ssbench.prepare.own_masks import ConvertRules, Value, is_settled
from ssbench.prepare.own_pairs import ImageMaskPair
from ssbench.prepare.own_samples import SampleStats

K = TypeVar("K", bound=Hashable)
COLOURS = 12
"""Unknown colours that are reported one by one."""
PEAK = 0.02  # ours: share of all pixels above which a value is meant, and no soft edge
FEW = 6  # unknown values that are proposed to be ignored one by one
SHOWN = 8  # values of a histogram


def findings_of(samples: Sequence[SampleStats], rules: ConvertRules) -> list[Finding]:
    """The findings of each sample, then those over all masks: values, colours, palettes, and 0 and 255 alone."""
    alone = [finding for sample in samples for finding in sample.findings]
    binary = list(_binary(samples, rules.classes))
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
    unknown = [value for value in pixels if not is_settled(value, rules)]
    total = sum(pixels.values()) or 1
    if rules.nearest and not unknown:
        known = set(rules.classes.anchors())
        unknown = [v for v, n in pixels.items() if v not in known and n / total >= PEAK and not isinstance(v, str)]
        unknown = unknown if rules.classes.is_named else []
    if not unknown:
        return
    files = {str(path) for value in unknown for path in masks[value]}
    first = next(path for path in masks[max(unknown, key=lambda v: pixels[v])])
    looks, option = _guess(pixels, unknown, rules)
    if len(unknown) == 1:
        detail = f"value {unknown[0]} is no class: {pixels[unknown[0]]} pixels in {len(files)} masks"
    else:
        detail = f"{len(unknown)} values are no class: {sum(pixels[v] for v in unknown)} pixels in {len(files)} masks"
    if rules.nearest:
        detail += ", too many for soft edges between values that are classes"
    histogram = ", ".join(f"{value} {100 * n / total:.3g} %" for value, n in pixels.most_common(SHOWN))
    rest = f" and {len(pixels) - SHOWN} more" if len(pixels) > SHOWN else ""
    classes = (
        f"classes are 0..{len(rules.classes.names) - 1} and 255" if rules.classes.is_named else "labels are 0..255"
    )
    kind = "number" if all(isinstance(v, float) for v in unknown) else "value"
    yield Finding.at(first, kind, f"{detail}; all values: {histogram}{rest}; {classes}{looks}", option, len(files))


def _guess(pixels: Counter[Value], unknown: Sequence[Value], rules: ConvertRules) -> tuple[str, str]:
    """What the values look like, and the options that would read them so."""
    total, names = sum(pixels.values()), rules.classes.names
    whole = sorted(v for v in pixels if isinstance(v, int) and not (v < 0 or v in rules.classes.values))
    odd = [v for v in pixels if not isinstance(v, int) or v < 0]
    peaks = [v for v in whole if pixels[v] / total >= PEAK]
    outside = " ".join(f"--map {v}=255" for v in odd if isinstance(v, str) or v < 0)
    for values, nearest in ((whole, False), (peaks, True)):
        plain = [v for v in values if v != IGNORE]
        matching = plain if len(plain) == len(names) else values
        if len(matching) == len(names) > 1 and max(matching) >= len(names) and len(matching) == len(set(matching)):
            maps = " ".join(f"--map {v}={k}" for k, v in enumerate(matching) if v != k)
            looks = "gaps in the labels" if not nearest else "soft edges between the labels (anti-aliased masks)"
            extra = " --nearest" if nearest else ""
            ignore = ", or --map other=255 instead of --nearest ignores the edges" if nearest else ""
            return f"; looks like {looks}{ignore}", " ".join(filter(None, (maps + extra, outside)))
    fractions = [v for v in odd if isinstance(v, float) and v >= 0]
    if len(unknown) <= FEW and not fractions:
        maps = " ".join(f"--map {v}=255" for v in sorted(unknown, key=str))
        return f" ({maps} ignores {'it' if len(unknown) == 1 else 'them'})", maps
    if fractions and set(peaks) <= set(rules.classes.anchors()):
        return "; looks like soft edges, or shares instead of labels", " ".join(filter(None, ("--nearest", outside)))
    if rules.classes.is_named and peaks and set(peaks) <= set(rules.classes.anchors()):
        return "; looks like soft edges between the labels (anti-aliased masks)", "--nearest"
    return "; --map other=255 ignores them all", "--map other=255"


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
    if len(pixels) > COLOURS:
        total = sum(sum(sample.labels.values()) for sample in samples) or 1
        if max(pixels.values()) / total < PEAK:
            detail = f"{len(pixels)} colours are no class: {sum(pixels.values())} pixels, none frequent: soft edges "
            detail += "(anti-aliased masks)? --nearest takes the nearest colour, --map other=255 ignores them"
            yield Finding.at(next(iter(masks.values()))[0], "colour", detail, "--nearest")
            return
    for colour, count in pixels.most_common(COLOURS):
        detail = f"colour {' '.join(map(str, colour))} is no class: {count} pixels in {len(masks[colour])} masks"
        detail += " (`ignore R G B` in classes.txt ignores it)"
        yield Finding.at(masks[colour][0], "colour", detail, "--map other=255")


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

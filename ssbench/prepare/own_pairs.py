"""Pairs the images of a user's folder with their masks, and says which subset each is of."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from ssbench.data.decode import opened
from ssbench.errors import DataError
from ssbench.files import sha256
from ssbench.prepare.own_findings import Finding
from ssbench.prepare.own_layout import SUBSETS, FolderLayout, SubsetFolder, collect, find_subsets, strays
from ssbench.splits.resolve import read_list_text, resolve

LISTS = ("ImageSets/Segmentation", "ImageSets", "splits", "lists", "")
"""Folders in which a dataset's own train.txt and val.txt are looked for."""
PAGED = (".tif", ".tiff", ".gif", ".webp")
"""Files that may hold several pages."""
Pages: TypeAlias = Literal["all", "first"]
_SIGN = re.compile(r"[-_. ]")


@dataclass(frozen=True)
class ImageMaskPair:
    """One image of a user's folder; no `mask`: an unlabelled image; `subset` is "" in an undivided folder.

    page: of a file of several, else None. layers: (file, label) of each layer, where every label has a picture of its
    own; `ground` is then the label of pixels in no layer.
    """

    id: str
    subset: str
    image: Path
    mask: Path | None
    page: int | None = None
    layers: tuple[tuple[Path, int], ...] = ()
    ground: int = 0

    def __str__(self) -> str:
        return str(self.image)  # how a pool names the item that failed


@dataclass
class PairSearch:
    """What is looked for, and what came of it so far.

    unlabeled: training images without a mask are kept. pages: how files of several pages are read (None: each page is
    an image where image and mask have as many). names: the classes, for the labels of layers.
    """

    folder: Path
    layout: FolderLayout
    unlabeled: bool = False
    pages: Pages | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.findings: list[Finding] = []
        self.notes: list[str] = []


def find_pairs(search: PairSearch) -> list[ImageMaskPair]:
    """Images and masks matched by their names, in order of id; what is wrong goes to `search.findings`.

    An id is the image's path below its folder without the ending. An image without a mask is a finding, but for one of
    train where `unlabeled` keeps them. DataError when no images are found at all.
    """
    homes, notes = find_subsets(search.folder, search.layout)
    search.notes += notes
    search.findings += strays(homes)
    by_home = [(home, _matched(home, search)) for home in homes]
    pairs = _joined(by_home, search)
    if [home.subset for home in homes] == [""]:
        pairs = _by_lists(pairs, homes[0], search)
    pairs = [page for pair in pairs for page in _paged(pair, search)]
    composed = sum(pair.image.stem != unicodedata.normalize("NFC", pair.image.stem) for pair in pairs)
    if composed:
        search.notes.append(f"{composed} names are in decomposed Unicode, as a Mac writes it: ids are composed")
    kept = []
    for pair in pairs:
        is_train = pair.subset in ("", "train")
        if pair.mask is None and not pair.layers and not (search.unlabeled and is_train):
            detail = "has no mask" + ("; --unlabeled keeps it for training" if is_train else "")
            search.findings.append(Finding.at(pair.image, "no-mask", detail, "--unlabeled" if is_train else ""))
        else:
            kept.append(pair)
    return sorted(kept, key=lambda pair: pair.id)


def _joined(by_home: list[tuple[SubsetFolder, list[ImageMaskPair]]], search: PairSearch) -> list[ImageMaskPair]:
    """The pairs of all subsets. Ids that several subsets use for different pictures get the subset before them."""
    places: dict[str, list[ImageMaskPair]] = {}
    for _, pairs in by_home:
        for pair in pairs:
            places.setdefault(pair.id, []).append(pair)
    shared = {id: pairs for id, pairs in places.items() if len(pairs) > 1}
    same = [pairs for pairs in shared.values() if len({sha256(pair.image) for pair in pairs}) < len(pairs)]
    for pairs in same:
        detail = f"has the stem of {pairs[0].image}: one of them must go, or train and val share an image"
        search.findings += [Finding.at(pair.image, "duplicate", detail) for pair in pairs[1:]]
    if same or not shared:
        return [pairs[0] for pairs in places.values()]
    search.notes.append(f"{len(shared)} names stand for different images in several subsets: ids begin with the subset")
    return [replace(pair, id=f"{pair.subset}/{pair.id}") for _, pairs in by_home for pair in pairs]


def _matched(home: SubsetFolder, search: PairSearch) -> list[ImageMaskPair]:
    """The pairs of one subset; what has no partner is a finding."""
    layout, findings = home.layout, search.findings
    if not home.images.is_dir() or not home.masks.is_dir():
        raise DataError(f"no folder {home.masks.name}", str(home.masks), "say how it is called: --masks NAME")
    within = {name for names in SUBSETS.values() for name in names} if home.subset == "" and home.is_mixed else None
    skip = layout.mask_suffix if home.is_mixed else ""
    images = collect(home.images, layout.image_suffix, findings, skip, within)
    if not images:
        raise DataError(f"no images in {home.images.name}", str(home.images), "known are .jpg, .png, .tif and others")
    if layout.layers:
        return _layered(home, images, search)
    masks = collect(home.masks, layout.mask_suffix, findings, within=within)
    partner = _aligned(images, masks, search)
    if partner is None:
        labels = sorted({label for _, label in _layers_of(images, masks).values()})
        names = ",".join(search.names or ("background", *labels))
        option = "--layers" if set(labels) <= {_plain(name) for name in search.names} else f"--layers --classes {names}"
        detail = f"looks like one picture for each image and label ({', '.join(labels[:6])}), not one mask an image"
        first = next(iter(masks.values()))
        findings.append(Finding.at(first, "layers", detail, option, len(masks)))
        return []
    for id in sorted(masks.keys() - partner.keys()):
        findings.append(Finding.at(masks[id], "no-image", f"has no image called {id}"))
    mask_of = {image: masks[mask] for mask, image in partner.items()}
    return [ImageMaskPair(id, home.subset, path, mask_of.get(id)) for id, path in images.items()]


def _aligned(images: Collection[str], masks: Collection[str], search: PairSearch) -> dict[str, str] | None:
    """Mask id -> image id. None where the masks look like layers of labels."""
    exact = {id: id for id in masks if id in images}
    if not exact and masks:
        for words, key_of in _ways(images, masks):
            if matches := _matches(images, masks, key_of):
                search.notes.append(f"images and masks are matched {words}: {len(matches)} pairs")
                return matches
        layers = _layers_of(images, masks)
        if 2 * len(layers) > len(masks) and len({label for _, label in layers.values()}) > 1:
            return None
    rest = _matches(set(images) - set(exact.values()), set(masks) - set(exact), lambda id, _: id.casefold(), least=0)
    if rest:
        search.notes.append(f"{len(rest)} masks have the name of their image in other capitals")
    return exact | rest


KeyOf: TypeAlias = Callable[[str, bool], str]


def _ways(images: Collection[str], masks: Collection[str]) -> Iterator[tuple[str, KeyOf]]:
    """Ways to compare names where none is equal, each with its words: (name, whether it is a mask's) -> key."""
    affixes = {False: _affixes(images), True: _affixes(masks)}

    def without_affixes(id: str, is_mask: bool) -> str:
        start, end = affixes[is_mask]
        folder, _, name = id.rpartition("/")
        return f"{folder}/{name[len(start) : len(name) - len(end)]}"

    (start, end), (mask_start, mask_end) = affixes[False], affixes[True]
    yield f"without what all of them share ('{start}*{end}' and '{mask_start}*{mask_end}')", without_affixes
    yield "by name alone, whatever folder they are in", lambda id, _: id.rpartition("/")[2]
    yield (
        "by name alone, without what all of them share",
        lambda id, is_mask: without_affixes(id, is_mask).rpartition("/")[2],
    )


def _matches(images: Collection[str], masks: Collection[str], key_of: KeyOf, least: float = 0.5) -> dict[str, str]:
    """Mask id -> image id by equal keys, where each key is of one image and one mask; {} below the share `least`."""
    by_key: dict[str, list[str]] = {}
    for id in images:
        by_key.setdefault(key_of(id, False), []).append(id)
    keys = {id: key_of(id, True) for id in masks}
    counts = Counter(keys.values())
    matches = {id: by_key[key][0] for id, key in keys.items() if counts[key] == 1 and len(by_key.get(key, ())) == 1}
    return matches if len(matches) > least * min(len(images), len(masks)) or not least else {}


def _affixes(ids: Collection[str]) -> tuple[str, str]:
    """What all names begin and end with, in whole words: "img_" and "_leftImg8bit"."""
    names = [id.rpartition("/")[2] for id in ids]
    if len(names) < 2:
        return "", ""
    start, end = os.path.commonprefix(names), os.path.commonprefix([name[::-1] for name in names])[::-1]
    start = start[: max((m.end() for m in _SIGN.finditer(start)), default=len(re.match(r"[^\W\d]*", start)[0]))]  # type: ignore[index]
    sign = _SIGN.search(end)
    return start, end[sign.start() :] if sign and not end[sign.start() + 1 :].isdigit() else ""


def _plain(label: str) -> str:
    """A label without a running number behind it, capitals, and the signs between its words."""
    return _SIGN.sub("_", re.sub(r"[-_. ]\d+$", "", label)).strip("_").casefold()


def _layers_of(images: Collection[str], masks: Collection[str]) -> dict[str, tuple[str, str]]:
    """Mask id -> (image id, label), of masks whose name is made of both: 00-disc-0, disc/00, 00/disc, disc_00."""
    layers = {}
    for id in masks:
        folder, _, rest = id.partition("/")
        above, _, last = id.rpartition("/")
        cuts = [match.start() for match in _SIGN.finditer(id)]
        candidates = [(rest, folder), (above, last)] if rest else []
        candidates += [(id[:cut], id[cut + 1 :]) for cut in reversed(cuts)]
        candidates += [(id[cut + 1 :], id[:cut]) for cut in cuts]
        match = next(((image, label) for image, label in candidates if image in images and label), None)
        if match:
            layers[id] = match[0], _plain(match[1])
    return layers


def _layered(home: SubsetFolder, images: dict[str, Path], search: PairSearch) -> list[ImageMaskPair]:
    """Pairs whose masks are one picture for each label."""
    masks = collect(home.masks, "", search.findings)
    masks = {id: path for id, path in masks.items() if not home.is_mixed or id not in images}
    layers, labels = _layers_of(images, masks), {_plain(name): k for k, name in enumerate(search.names)}
    for id in sorted(masks.keys() - layers.keys()):
        search.findings.append(Finding.at(masks[id], "no-image", f"has the name of no image in its own: {id}"))
    unknown = sorted({label for _, label in layers.values()} - labels.keys())
    if unknown:
        first = next(masks[id] for id, (_, label) in layers.items() if label == unknown[0])
        option = f"--classes background,{','.join(unknown)}" if not search.names else ""
        detail = f"labels in the names that are no class: {', '.join(unknown[:6])}"
        search.findings.append(Finding.at(first, "layer", detail, option))
    by_image: dict[str, list[tuple[Path, int]]] = {}
    for id, (image, label) in sorted(layers.items()):
        if label in labels:
            by_image.setdefault(image, []).append((masks[id], labels[label]))
    ground = 255 if any(label == 0 for parts in by_image.values() for _, label in parts) else 0
    pixels = "are ignored (255): class 0 has layers of its own" if ground else f"are class 0 ({[*search.names, ''][0]})"
    search.notes.append(f"{len(layers)} layers of {len(by_image)} images are merged; pixels in no layer {pixels}")
    return [
        ImageMaskPair(
            id, home.subset, path, None, None, tuple(sorted(by_image.get(id, ()), key=lambda p: p[1])), ground
        )
        for id, path in images.items()
    ]


def _by_lists(pairs: list[ImageMaskPair], home: SubsetFolder, search: PairSearch) -> list[ImageMaskPair]:
    """The pairs with the subsets that the folder's own lists give them; as they are where there are no such lists."""
    roots = dict.fromkeys((home.images.parent, search.folder))
    places = [root / name for root in roots for name in LISTS]
    place = next((p for p in places if (p / "train.txt").is_file() or (p / "trainval.txt").is_file()), None)
    if place is None:
        return pairs
    ids, subset_of, files = {pair.id for pair in pairs}, dict[str, str](), []
    for subset, names in (("test", ("test",)), ("val", ("val", "valid")), ("train", ("train", "trainval"))):
        path = next((place / f"{name}.txt" for name in names if (place / f"{name}.txt").is_file()), None)
        if path is None:
            continue
        files.append(path.name)
        listed = resolve(read_list_text(path, "mend the list, or take it away"), ids)
        for number, text in listed.unknown[:1]:
            detail = f"{len(listed.unknown)} lines name no image here, first '{text[:80]}' (line {number})"
            search.findings.append(Finding.at(path, "list", detail, files=len(listed.unknown)))
        twice = [id for id in listed.ids if subset_of.get(id, subset) != subset and path.stem != "trainval"]
        if twice:
            detail = f"{len(twice)} images stand in another list too, first '{twice[0]}'"
            search.findings.append(Finding.at(path, "list", detail, files=len(twice)))
        for id in listed.ids:
            subset_of.setdefault(id, subset)
    search.notes.append(f"subsets are those of the lists in {place}: {', '.join(sorted(files))}")
    rest = [pair for pair in pairs if pair.id not in subset_of]
    if rest and search.unlabeled:
        search.notes.append(f"images that stand in no list are kept for training, unlabelled: {len(rest)}")
        kept = [replace(pair, subset="train", mask=None, layers=()) for pair in rest]
    else:
        detail = "stands in no list; --unlabeled keeps such images for training"
        search.findings += [Finding.at(p.image, "not-listed", detail, "--unlabeled") for p in rest]
        kept = []
    return [replace(p, subset=subset_of[p.id]) for p in pairs if p.id in subset_of] + kept


def _paged(pair: ImageMaskPair, search: PairSearch) -> Sequence[ImageMaskPair]:
    """A pair for each page of a file of several: 00_p0 and on, where image and mask have as many."""
    if pair.image.suffix.lower() not in PAGED and (pair.mask is None or pair.mask.suffix.lower() not in PAGED):
        return [pair]
    images, masks = _pages(pair.image), None if pair.mask is None else _pages(pair.mask)
    if (images, masks or 1) == (1, 1) or search.pages == "first":
        return [pair]
    if masks in (None, images):
        search.notes = [note for note in search.notes if not note.startswith("files of several pages")]
        search.notes.append("files of several pages: each page is an image, called NAME_p0 and on (--pages)")
        width = len(str(images - 1))
        return [replace(pair, id=f"{pair.id}_p{page:0{width}}", page=page) for page in range(images)]
    detail = f"has {images} pages, its mask {masks}; --pages first reads the first of each"
    search.findings.append(Finding.at(pair.image, "pages", detail, "--pages first"))
    return []


def _pages(path: Path) -> int:
    """Pages of a file; 1 for a file that cannot be read, which is found when it is decoded."""
    if path.suffix.lower() not in PAGED:
        return 1
    try:
        with opened(path) as image:
            return int(getattr(image, "n_frames", 1))
    except DataError:
        return 1

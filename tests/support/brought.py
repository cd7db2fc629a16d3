"""Folders of images and masks in the forms that cameras, label tools and GIS programs leave them in.

Each function writes a folder below `home` and returns the labels that an import must end with, by id.
"""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from own_folders import labels, picture
from PIL import Image, ImageFilter

Labels = np.ndarray
Truth = Mapping[str, Labels]
COUNT = 8
COLOURS = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)
COLOUR_LINES = "floor 0 0 0\nwall 250 50 83\ndoor 51 221 255\n"


def truth(k: int, classes: int = 3, size: tuple[int, int] = (40, 32)) -> Labels:
    return np.asarray(labels(f"brought {k}", size, classes)).copy()


def grey(values: Labels) -> Image.Image:
    return Image.fromarray(np.asarray(values, np.uint8))


def write(
    home: Path,
    image: Callable[[Image.Image, Path, int], object],
    mask: Callable[[Labels, Path, int], object],
    classes: str = "floor\nwall\ndoor\n",
    count: int = COUNT,
    of: int = 3,
) -> Truth:
    """`count` pairs in images/ and masks/; the functions are given the content, the path without an ending and k."""
    for part in ("images", "masks"):
        (home / part).mkdir(parents=True, exist_ok=True)
    if classes:
        (home / "classes.txt").write_text(classes)
    answer = {}
    for k in range(count):
        answer[f"{k:02d}"] = truth(k, of)
        image(picture(f"brought {k}"), home / "images" / f"{k:02d}", k)
        mask(answer[f"{k:02d}"], home / "masks" / f"{k:02d}", k)
    return answer


def as_png(image: Image.Image, path: Path, k: int = 0) -> None:
    image.save(path.with_suffix(".png"))


def grey_png(values: Labels, path: Path, k: int = 0) -> None:
    grey(values).save(path.with_suffix(".png"))


def plain(home: Path) -> Truth:
    return write(home, as_png, grey_png)


def one_bit(home: Path) -> Truth:
    return write(
        home, as_png, lambda v, p, k: Image.fromarray(v > 0).save(p.with_suffix(".png")), "floor\nwall\n", of=2
    )


def four_bits(home: Path) -> Truth:
    """4-bit grey masks, whose values Pillow stretches to 255; written by hand, for Pillow writes none."""
    import struct
    import zlib

    def save(values: Labels, path: Path, k: int) -> None:
        packed = (values[:, ::2] << 4 | values[:, 1::2]).astype(np.uint8)
        rows = b"".join(b"\0" + row.tobytes() for row in packed)

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 4, 0, 0, 0, 0)
        content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)

    return write(home, as_png, save)


def transparent(home: Path) -> Truth:
    """Images with a real alpha channel; masks of colours on a transparent ground."""
    table = np.concatenate([COLOURS, np.array([[0], [255], [255]], np.uint8)], 1)

    def image(picture: Image.Image, path: Path, k: int) -> None:
        picture.putalpha(Image.fromarray(np.full((32, 40), 250, np.uint8)))
        as_png(picture, path)

    return write(home, image, lambda v, p, k: Image.fromarray(table[v]).save(p.with_suffix(".png")), COLOUR_LINES)


def cmyk(home: Path) -> Truth:
    return write(home, lambda i, p, k: (i.convert("CMYK") if k == 5 else i).save(p.with_suffix(".jpg")), grey_png)


def deep(home: Path) -> Truth:
    """16-bit grey images; 16-bit masks."""
    return write(
        home,
        lambda i, p, k: Image.fromarray(np.asarray(i.convert("L")).astype(np.uint16) * 257).save(p.with_suffix(".png")),
        lambda v, p, k: Image.fromarray(v.astype(np.uint16)).save(p.with_suffix(".png")),
    )


TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def _turned(home: Path, way: int, size: tuple[int, int]) -> Truth:
    exif = Image.Exif()
    exif[0x0112] = way

    def image(_: Image.Image, path: Path, k: int) -> None:
        shown = picture(f"turned {k}", size)
        shown.transpose(TURNS[way]).save(path.with_suffix(".jpg"), exif=exif, quality=95)

    answer = write(home, image, grey_png)
    for k, id in enumerate(sorted(answer)):
        grey_png(truth(k, 3, size), home / "masks" / id)
    return {id: truth(k, 3, size) for k, id in enumerate(sorted(answer))}


def turned_portrait(home: Path) -> Truth:
    """Stored on their side; the masks are drawn on the pictures as viewers show them."""
    return _turned(home, 6, (24, 40))


def turned_square(home: Path) -> Truth:
    return _turned(home, 8, (32, 32))


def upside_down(home: Path) -> Truth:
    return _turned(home, 3, (40, 32))


def nested(home: Path) -> Truth:
    """The same names in a folder a scene."""
    answer = {}
    for scene in ("north", "south"):
        for k in range(5):
            values = truth(k + 10 * (scene == "south"))
            for part, save, content in (("images", as_png, picture(f"{scene}{k}")), ("masks", grey_png, values)):
                path = home / part / scene / f"{k:03d}"
                path.parent.mkdir(parents=True, exist_ok=True)
                save(content, path)  # type: ignore[operator]
            answer[f"{scene}/{k:03d}"] = values
    (home / "classes.txt").write_text("floor\nwall\ndoor\n")
    return answer


def composed(home: Path) -> Truth:
    """Names of images from a Mac, of masks from Linux; in other capitals here and there."""
    names = [f"Gebäude {k} (1)" if k % 2 else f"道路 {k}" for k in range(COUNT)]
    answer = {}
    for k, name in enumerate(names):
        for part in ("images", "masks"):
            (home / part).mkdir(parents=True, exist_ok=True)
        as_png(picture(name), home / "images" / unicodedata.normalize("NFD", name))
        grey_png(truth(k), home / "masks" / (name.upper() if k == 1 else unicodedata.normalize("NFC", name)))
        answer[unicodedata.normalize("NFC", name)] = truth(k)
    (home / "classes.txt").write_text("floor\nwall\ndoor\n")
    return answer


def gaps(home: Path) -> Truth:
    """Labels 0, 2 and 5 for three classes."""
    return write(home, as_png, lambda v, p, k: grey_png(np.array([0, 2, 5])[v], p))


def spread(home: Path) -> Truth:
    """Labels stretched over the grey scale: 0, 127, 255."""
    return write(home, as_png, lambda v, p, k: grey_png(np.array([0, 127, 255])[v], p))


def soft(home: Path) -> Truth:
    """0 and 255 with soft edges: the truth is where the grey values are nearer to."""

    def mask(values: Labels, path: Path, k: int) -> None:
        grey(values * 255).filter(ImageFilter.GaussianBlur(1)).save(path.with_suffix(".png"))

    answer = write(home, as_png, mask, "floor\nwall\n", of=2)
    return {id: (np.asarray(Image.open(home / "masks" / f"{id}.png")) > 127).astype(np.uint8) for id in answer}


def zero_255(home: Path) -> Truth:
    return write(home, as_png, lambda v, p, k: grey_png(v * 255, p), "floor\nwall\n", of=2)


def jpeg_masks(home: Path) -> Truth:
    return write(home, as_png, lambda v, p, k: grey(v * 100).save(p.with_suffix(".jpg"), quality=95))


def other_sizes(home: Path) -> Truth:
    answer = write(home, as_png, grey_png)
    grey(answer["02"]).resize((20, 16), 0).save(home / "masks" / "02.png")
    return {id: values for id, values in answer.items() if id != "02"}


def cut(home: Path) -> Truth:
    """An image cut in half, an empty one, and a mask that lost its end."""
    answer = write(home, as_png, grey_png)
    for name, bytes_left in (("images/03.png", 400), ("images/04.png", 0), ("masks/05.png", -20)):
        path = home / name
        path.write_bytes(path.read_bytes()[:bytes_left])
    return {id: values for id, values in answer.items() if id not in ("03", "04", "05")}


def _shuffled(values: Labels, path: Path, k: int) -> None:
    order = np.random.default_rng(k).permutation(3)
    page = grey(np.argsort(order)[values])
    page.putpalette(COLOURS[order].ravel().tolist())
    page.save(path.with_suffix(".png"))


def palettes(home: Path) -> Truth:
    """Each file numbers its colours in its own order."""
    return write(home, as_png, _shuffled, COLOUR_LINES)


def bare_palettes(home: Path) -> Truth:
    return write(home, as_png, _shuffled)


def labelme(home: Path) -> Truth:
    return write(home, as_png, grey_png, "__ignore__\n_background_\nwall\ndoor\n")


def stacks(home: Path) -> Truth:
    """Three pages a file."""
    answer = {}

    def image(_: Image.Image, path: Path, k: int) -> None:
        pages = [picture(f"{k} {page}") for page in range(3)]
        pages[0].save(path.with_suffix(".tif"), save_all=True, append_images=pages[1:])

    def mask(_: Labels, path: Path, k: int) -> None:
        pages = [truth(10 * k + page) for page in range(3)]
        grey(pages[0]).save(path.with_suffix(".tif"), save_all=True, append_images=[grey(v) for v in pages[1:]])
        answer.update({f"{k:02d}_p{page}": values for page, values in enumerate(pages)})

    write(home, image, mask)
    return answer


def uneven_stacks(home: Path) -> Truth:
    """Images of two pages, masks of one."""

    def image(picture: Image.Image, path: Path, k: int) -> None:
        picture.save(path.with_suffix(".tif"), save_all=True, append_images=[picture])

    return write(home, image, grey_png)


def devkit(home: Path) -> Truth:
    """A folder in the VOC devkit's form; two pictures more than its lists name."""
    answer = write(home, as_png, grey_png)
    (home / "images").rename(home / "JPEGImages")
    (home / "masks").rename(home / "SegmentationClass")
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("00\n01\n02\n03\n")
    (lists / "val.txt").write_text("04\n05\n")
    for id in ("06", "07"):
        (home / "SegmentationClass" / f"{id}.png").unlink()
    return {id: values if id < "06" else np.full_like(values, 255) for id, values in answer.items()}


def _layers(home: Path, form: str) -> Truth:
    answer = write(home, as_png, lambda v, p, k: None)
    for id, values in answer.items():
        for label, name in ((1, "wall"), (2, "door")):
            path = home / "masks" / form.format(id=id, label=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            grey(np.where(values == label, 255, 0)).save(path)
    return answer


def layers(home: Path) -> Truth:
    return _layers(home, "{id}-{label}-0.png")


def layer_folders(home: Path) -> Truth:
    return _layers(home, "{label}/{id}.png")


def side_by_side(home: Path) -> Truth:
    """Images and masks in one folder a subset, and the classes in a table beside them."""
    answer = {}
    for subset, ks in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 10))):
        (home / subset).mkdir(parents=True)
        (home / subset / "_classes.csv").write_text("Pixel Value, Class\n0, floor\n1, wall\n2, door\n")
        for k in ks:
            picture(f"side {k}").save(home / subset / f"{k:02d}.jpg")
            grey_png(truth(k), home / subset / f"{k:02d}_mask")
            answer[f"{k:02d}"] = truth(k)
    return answer


def zipped(home: Path) -> Truth:
    """The same in an archive, as it was downloaded."""
    answer = side_by_side(home)
    shutil.make_archive(str(home.with_name("zipped")), "zip", home.parent, home.name)
    shutil.rmtree(home)
    home.with_name("zipped.zip").rename(home.with_suffix(".zip"))
    return answer


def gis(home: Path) -> Truth:
    """32-bit float and integer masks; -9999 and no number where there are no data."""

    def mask(values: Labels, path: Path, k: int) -> None:
        numbers = values.astype(np.float32 if k % 2 else np.int32)
        numbers[:4] = -9999
        if k == 1:
            numbers[4] = np.nan
        Image.fromarray(numbers).save(path.with_suffix(".tif"))

    answer = write(home, lambda i, p, k: i.save(p.with_suffix(".tif")), mask)
    for k, values in enumerate(answer.values()):
        values[:4] = 255
        if k == 1:
            values[4] = 255
    return answer


def same_names(home: Path) -> Truth:
    """Other pictures of the same names in train and val."""
    answer = {}
    for subset in ("train", "val"):
        for k in range(4):
            values = truth(k + 10 * (subset == "val"))
            for part in ("images", "masks"):
                (home / part / subset).mkdir(parents=True, exist_ok=True)
            as_png(picture(f"{subset}{k}"), home / "images" / subset / f"{k:02d}")
            grey_png(values, home / "masks" / subset / f"{k:02d}")
            answer[f"{subset}/{k:02d}"] = values
    (home / "classes.txt").write_text("floor\nwall\ndoor\n")
    return answer


def affixes(home: Path) -> Truth:
    """street_00_leftImg8bit beside street_00_gtFine_labelIds."""
    answer = write(home, as_png, grey_png)
    for part, form in (("images", "street_{}_leftImg8bit"), ("masks", "street_{}_gtFine_labelIds")):
        for path in sorted((home / part).iterdir()):
            path.rename(path.with_stem(form.format(path.stem)))
    return {f"street_{id}_leftImg8bit": values for id, values in answer.items()}


def three_bands_of_grey(home: Path) -> Truth:
    """Masks whose labels stand in all three bands of an RGB picture."""
    return write(home, as_png, lambda v, p, k: Image.fromarray(np.dstack([v] * 3)).save(p.with_suffix(".png")))


def unmasked(home: Path) -> Truth:
    """Sixteen training images, of which eight have masks."""
    answer = write(home, as_png, grey_png, count=16)
    for k in range(8, 16):
        (home / "masks" / f"{k:02d}.png").unlink()
    return {id: values if id < "08" else np.full_like(values, 255) for id, values in answer.items()}

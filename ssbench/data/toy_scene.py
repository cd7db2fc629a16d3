"""Scenes of the toy data: a table top with coins, rings, stars, leaves and bricks, drawn from (seed, id) alone.

Every number is a uniform draw of a Philox generator keyed by (seed, id), every shape an implicit function evaluated in
float64 and rounded to bytes at the end, so the arrays do not depend on the machine or on library versions.

No colour makes a class: hues run along paths that overlap, under a lamp of its own in each scene. A class is its
outline and its relief at any turn, size, contrast and polarity; things of no class share its colours, and some its
relief. What 20 scenes do not cover is reached from them in small steps: all these variations are continuous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ssbench import keyed

Field = npt.NDArray[np.float64]  # H W, or H W 3 for colours in [0, 1]
Mask = npt.NDArray[np.uint8]  # H W train ids
Point = tuple[float, float]  # x, y in pixels

CLASSES = ("background", "coin", "ring", "star", "leaf", "brick")
IGNORE = 255
SIDES = (88, 112)  # pixels, both ends included
COARSE_SHARE = 0.25  # of the training scenes
RADII = (19.0, 32.0)  # pixels: half the long side of an object


@dataclass(frozen=True)
class Scene:
    """A picture: `image` H W 3 uint8, `mask` H W uint8 labels (255 = ignore), `coarse`: the mask is a rough one."""

    image: npt.NDArray[np.uint8]
    mask: Mask
    coarse: bool


class Dice:
    """Draws for one key, all made of uniform doubles: the one numpy draw whose stream has never changed."""

    def __init__(self, *key: str | int) -> None:
        self._rng = keyed.rng(*key)

    def real(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self._rng.random())

    def whole(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + int(self._rng.random() * (high - low + 1))

    def order(self, n: int) -> list[int]:
        """0 .. n-1 in random order."""
        return [int(i) for i in np.argsort(self._rng.random(n), kind="stable")]

    def field(self, h: int, w: int) -> Field:
        """H W numbers in [0, 1)."""
        return self._rng.random((h, w))


@dataclass(frozen=True)
class Spot:
    """Coordinates of every pixel in an object's own frame: u along its axis, v across, both in units of `radius`."""

    u: Field
    v: Field
    radius: float
    centre: Point

    @classmethod
    def throw(cls, dice: Dice, h: int, w: int, radius: float, taken: Sequence[Point] = ()) -> Spot:
        """A spot at a random turn and place: of three places, the one farthest from those `taken`."""
        places = [(dice.real(0.08, 0.92) * w, dice.real(0.08, 0.92) * h) for _ in range(3)]
        cx, cy = max(places, key=lambda p: min((math.dist(p, q) for q in taken), default=0.0))
        turn = dice.real(0, 2 * math.pi)
        y, x = np.mgrid[0:h, 0:w] + 0.5
        c, s = math.cos(turn), math.sin(turn)
        u, v = ((x - cx) * c + (y - cy) * s) / radius, ((y - cy) * c - (x - cx) * s) / radius
        return cls(u, v, radius, (cx, cy))


def length(u: Field, v: Field) -> Field:
    """The length of the vectors (u, v)."""
    out: Field = np.sqrt(u * u + v * v)
    return out


# --- outlines: distance to the edge in radii, negative inside ---------------------------------------------------------


def coin(spot: Spot, dice: Dice) -> Field:
    """An ellipse, at most 1.45 : 1."""
    return length(spot.u, spot.v * dice.real(1.0, 1.45)) - 1


def ring(spot: Spot, dice: Dice) -> Field:
    """A ring whose hole shows what lies below."""
    hole = dice.real(0.35, 0.55)
    middle: Field = np.abs(length(spot.u, spot.v * dice.real(1.0, 1.2)) - (1 + hole) / 2)
    return middle - (1 - hole) / 2


def star(spot: Spot, dice: Dice) -> Field:
    """A star of four to seven points."""
    points, depth = dice.whole(4, 7), dice.real(0.36, 0.5)
    valley: Field = 1 - np.abs(2 * ((np.arctan2(spot.v, spot.u) / (2 * math.pi) * points) % 1) - 1)
    return 0.7 * (length(spot.u, spot.v) - 1 + depth * valley)


def leaf(spot: Spot, dice: Dice) -> Field:
    """A pointed oval, bent."""
    across = spot.v - dice.real(-0.35, 0.35) * (spot.u**2 - 0.4)
    edge: Field = np.maximum(np.abs(across) - dice.real(0.36, 0.6) * (1 - spot.u**2), np.abs(spot.u) - 1)
    return 0.8 * edge


def brick(spot: Spot, dice: Dice) -> Field:
    """A rectangle, 1.6 : 1 to 2.6 : 1."""
    edge: Field = np.maximum(np.abs(spot.u) - 1, np.abs(spot.v) - dice.real(0.38, 0.62))
    return edge


def wedge(spot: Spot, dice: Dice) -> Field:
    """A triangle: no class."""
    slope = dice.real(0.5, 0.9)
    return np.maximum(slope * (np.abs(spot.v) * 1.2 + spot.u) - 0.5, -spot.u - 0.6)


def crescent(spot: Spot, dice: Dice) -> Field:
    """A disc bitten by another: no class."""
    return np.maximum(length(spot.u, spot.v) - 1, 0.85 - length(spot.u - dice.real(0.45, 0.7), spot.v))


def stick(spot: Spot, dice: Dice) -> Field:
    """A thin bar: no class."""
    return np.maximum(np.abs(spot.u) - 1.3, np.abs(spot.v) - dice.real(0.06, 0.12))


# --- reliefs: H W in [0, 1], the share of an object's second colour ---------------------------------------------------


def wave(x: Field) -> Field:
    """A soft square wave of period 2 pi."""
    return np.clip(0.5 + 0.9 * np.sin(x), 0, 1)


def minted(spot: Spot, dice: Dice) -> Field:
    """Coin: a dome with one rim."""
    rho = length(spot.u, spot.v)
    return np.clip(rho**2 * dice.real(0.5, 0.9), 0, 1) * (1 - wave(rho * 14.0) * (rho > 0.67))


def beaded(spot: Spot, dice: Dice) -> Field:
    """Ring: sectors around it."""
    return wave(np.arctan2(spot.v, spot.u) * dice.whole(9, 14))


def sparkling(spot: Spot, dice: Dice) -> Field:
    """Star: a fine grid of dots."""
    f = spot.radius * 6.28 / dice.real(4.5, 6)
    return 1 - wave(f * spot.u + dice.real(0, 6.28)) * wave(f * spot.v + dice.real(0, 6.28))


def veined(spot: Spot, dice: Dice) -> Field:
    """Leaf: fine ribs that leave the axis on both sides."""
    return wave(spot.radius * 6.28 / dice.real(4.5, 7) * (spot.u - dice.real(0.6, 1.2) * np.abs(spot.v)))


def coursed(spot: Spot, dice: Dice) -> Field:
    """Brick: a net of thin mortar lines, every second course shifted by half."""
    pitch = dice.real(10, 13) / spot.radius
    row = spot.v / pitch + dice.real()
    column = spot.u / pitch / 1.6 + 0.5 * (np.floor(row) % 2)
    return np.where(np.minimum(row % 1, (column % 1) * 1.6) < 0.22, 1.0, 0.0)


def plain(spot: Spot, dice: Dice) -> Field:
    """No relief: most distractors."""
    return np.full_like(spot.u, dice.real())


@dataclass(frozen=True)
class Kind:
    """How a class is drawn: `hues` is the path its colour takes as it ages (turns of the colour circle)."""

    outline: Callable[[Spot, Dice], Field]
    relief: Callable[[Spot, Dice], Field]
    hues: tuple[float, float]


KINDS = (
    Kind(coin, minted, (0.05, 0.31)),
    Kind(ring, beaded, (0.45, 0.71)),
    Kind(star, sparkling, (0.65, 0.91)),
    Kind(leaf, veined, (0.25, 0.51)),
    Kind(brick, coursed, (0.85, 1.11)),
)
DISTRACTORS = (wedge, crescent, stick)
DISGUISED = 0.12  # share of the distractors that wear the relief of a class


# --- picture ----------------------------------------------------------------------------------------------------------


def colour(hue: float, saturation: float, value: float) -> Field:
    """RGB in [0, 1] of a hue in turns."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def noise(dice: Dice, h: int, w: int, cell: float) -> Field:
    """Smooth noise in [0, 1), H W, with lumps of `cell` pixels."""
    dots = dice.field(int(h / cell) + 2, int(w / cell) + 2)
    rows, i = np.modf(np.arange(h) / cell)
    cols, j = np.modf(np.arange(w) / cell)
    top, left = i.astype(int), j.astype(int)
    down: Field = (rows**2 * (3 - 2 * rows))[:, None]
    right: Field = cols**2 * (3 - 2 * cols)
    upper: Field = dots[top][:, left] * (1 - right) + dots[top][:, left + 1] * right
    lower: Field = dots[top + 1][:, left] * (1 - right) + dots[top + 1][:, left + 1] * right
    return upper + (lower - upper) * down


def dye(relief: Field, dice: Dice, hue: float, saturation: tuple[float, float] = (0.4, 0.8)) -> Field:
    """H W 3: a colour near `hue`, and a darker or lighter one where `relief` is high."""
    s, v, contrast = dice.real(*saturation), dice.real(0.35, 0.95), dice.real(0.4, 0.8)
    other = v * (1 - contrast) if v > 0.55 else v + (1 - v) * contrast
    first, second = colour(hue, s, v), colour(hue + dice.real(-0.08, 0.08), s * dice.real(0.5, 1.0), other)
    return first + relief[..., None] * (second - first)


def table_top(dice: Dice, h: int, w: int) -> Field:
    """H W 3: wood, cloth or sand of any hue, with lumps."""
    spot = Spot.throw(dice, h, w, 16.0)
    lumps = noise(dice, h, w, dice.real(4, 20))
    pattern = (
        wave(dice.real(4, 10) * spot.u + 3 * lumps),
        0.5 * wave(dice.real(4, 8) * spot.u) + 0.5 * wave(dice.real(4, 8) * spot.v),
        noise(dice, h, w, 1.5),
    )[dice.whole(0, 2)]
    ground = dye(0.5 * lumps + 0.4 * pattern, dice, dice.real(), (0.05, 0.35))
    return ground * (0.8 + 0.4 * noise(dice, h, w, 24.0))[..., None]


def lay(canvas: Field, edge: Field, paint: Field, shade: Field) -> None:
    """Blend `paint` into `canvas` where `edge` (pixels, negative inside) says so, over its shadow at `shade`."""
    canvas *= 1 - 0.45 * np.clip(0.5 - shade / 6, 0, 1)[..., None]
    alpha = np.clip(0.5 - edge, 0, 1)[..., None]
    canvas += alpha * (paint - canvas)


def shifted(field: Field, dx: int, dy: int) -> Field:
    """`field` moved by whole pixels, its rim repeated."""
    h, w = field.shape
    rows, cols = np.clip(np.arange(h) - dy, 0, h - 1), np.clip(np.arange(w) - dx, 0, w - 1)
    return field[rows][:, cols]


def lit(canvas: Field, dice: Dice) -> Field:
    """The picture under a lamp of some colour, side and strength, through a camera with some gamma and grain."""
    h, w = canvas.shape[:2]
    spot = Spot.throw(dice, h, w, 60.0)
    warm, green = dice.real(-0.2, 0.2), dice.real(-0.1, 0.1)
    lamp = np.array([1 + warm, 1 + green, 1 - warm]) * dice.real(0.75, 1.2)
    bright = np.clip(canvas * lamp * (1 + 0.35 * np.clip(spot.u, -1, 1))[..., None], 0, 1)
    grain = np.stack([dice.field(h, w) for _ in range(3)], -1) - 0.5
    return np.clip(bright ** dice.real(0.75, 1.3) + dice.real(0.02, 0.08) * grain, 0, 1)


def clutter(canvas: Field, mask: Mask, dice: Dice, count: int) -> None:
    """Lay `count` things of no class, in any hue and any class's relief; what they hide becomes background."""
    h, w = mask.shape
    for _ in range(count):
        outline, disguise = DISTRACTORS[dice.whole(0, 2)], KINDS[dice.whole(0, len(KINDS) - 1)]
        relief = disguise.relief if dice.real() < DISGUISED else plain
        spot = Spot.throw(dice, h, w, dice.real(7, 17))
        edge = outline(spot, dice) * spot.radius
        lay(canvas, edge, dye(relief(spot, dice), dice, dice.real()), shifted(edge, 1, 2))
        mask[edge < 0] = 0


def is_coarse(id: str, seed: int) -> bool:
    """True for the training ids that get a rough mask; evaluation is on fine masks only."""
    return id.startswith("train") and Dice("toy", seed, id, "coarse").real() < COARSE_SHARE


def scene(id: str, seed: int) -> Scene:
    """The scene of a toy id with the mask it is given."""
    image, fine, rough = layers(id, seed)
    coarse = is_coarse(id, seed)
    return Scene(image, rough if coarse else fine, coarse)


def layers(id: str, seed: int) -> tuple[npt.NDArray[np.uint8], Mask, Mask]:
    """Picture, fine mask and rough mask: two to four objects of different classes, clutter below and above them."""
    dice = Dice("toy", seed, id)
    h, w = dice.whole(*SIDES), dice.whole(*SIDES)
    canvas, fine, rough = table_top(dice, h, w), np.zeros((h, w), np.uint8), np.zeros((h, w), np.uint8)
    clutter(canvas, fine, dice, dice.whole(1, 3))
    taken: list[Point] = []
    for number in dice.order(len(KINDS))[: dice.whole(2, 4)]:
        kind, spot = KINDS[number], Spot.throw(dice, h, w, dice.real(*RADII), taken)
        taken.append(spot.centre)
        edge = kind.outline(spot, dice) * spot.radius
        hue = kind.hues[0] + dice.real() * (kind.hues[1] - kind.hues[0])
        lay(canvas, edge, dye(kind.relief(spot, dice), dice, hue), shifted(edge, 1, 2))
        fine[edge < 0] = number + 1
        polygon(rough, edge, number + 1, dice)
    clutter(canvas, fine, dice, dice.whole(0, 1))
    return np.round(lit(canvas, dice) * 255).astype(np.uint8), bordered(fine), rough


def polygon(mask: Mask, edge: Field, value: int, dice: Dice) -> None:
    """Draw an object the coarse way: nine corners, a little too small, its hole and what covers it not cut out."""
    ys, xs = np.nonzero(edge < 0)
    turn, shrink = dice.real(0, 2 * math.pi), [dice.real(0.8, 1.0) for _ in range(9)]
    if not len(ys):
        return
    cx, cy = float(xs.mean()), float(ys.mean())
    corners = []
    for i, factor in enumerate(shrink):
        c, s = math.cos(turn + 2 * math.pi * i / 9), math.sin(turn + 2 * math.pi * i / 9)
        ray = np.abs((ys - cy) * c - (xs - cx) * s) < 2
        reach = factor * float(np.max(((xs - cx) * c + (ys - cy) * s)[ray], initial=0.0))
        corners.append((cx + reach * c, cy + reach * s))
    mask[within(corners, *mask.shape)] = value


def within(corners: Sequence[Point], h: int, w: int) -> npt.NDArray[np.bool_]:
    """H W: pixels inside a closed polygon, by the parity of the edges to their right."""
    y, x = np.mgrid[0:h, 0:w] + 0.5
    inside = np.zeros((h, w), bool)
    for (ax, ay), (bx, by) in pairwise([*corners, corners[0]]):
        if ay != by:
            inside ^= ((y < ay) != (y < by)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return inside


def bordered(mask: Mask) -> Mask:
    """`mask` with 255 on both sides of every edge between two labels, as the VOC annotations have it."""
    out = mask.copy()
    for axis in (0, 1):
        a, b = np.moveaxis(mask, axis, 0)[:-1], np.moveaxis(mask, axis, 0)[1:]
        o = np.moveaxis(out, axis, 0)
        o[:-1][a != b] = IGNORE
        o[1:][a != b] = IGNORE
    return out

"""Pictures of single objects, on which the encoder of the toy task is pretrained.

What ImageNet is to the papers, these pictures are to the toy scenes: the same camera and light, other things. No
outline and no relief here is one of a toy class or of a toy distractor, and the draws have their own keys.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ssbench.data.toy_scene import Dice, Field, Spot, dye, lay, length, lit, noise, shifted, table_top, wave

SIDE = 64
RADII = (13.0, 26.0)


def picture(number: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], int, int]:
    """The picture of that number (SIDE SIDE 3 uint8), its outline's and its relief's position in their lists."""
    dice = Dice("toy objects", seed, number)
    outline, relief = dice.whole(0, len(OUTLINES) - 1), dice.whole(0, len(RELIEFS) - 1)
    canvas = table_top(dice, SIDE, SIDE)
    spot = Spot.throw(dice, SIDE, SIDE, dice.real(*RADII))
    edge = OUTLINES[outline](spot, dice) * spot.radius
    lay(canvas, edge, dye(RELIEFS[relief](spot, dice), dice, dice.real()), shifted(edge, 1, 2))
    return np.round(lit(canvas, dice) * 255).astype(np.uint8), outline, relief


# --- outlines: distance to the edge in radii, negative inside ---------------------------------------------------------


def cushion(spot: Spot, dice: Dice) -> Field:
    """A square with round corners."""
    return np.asarray((spot.u**4 + spot.v**4) ** 0.25 - 0.85)


def cross(spot: Spot, dice: Dice) -> Field:
    """Two bars at a right angle."""
    width = dice.real(0.22, 0.36)
    bars = [np.maximum(np.abs(a) - 1, np.abs(b) - width) for a, b in ((spot.u, spot.v), (spot.v, spot.u))]
    edge: Field = np.minimum(*bars)
    return edge


def heart(spot: Spot, dice: Dice) -> Field:
    """Two lobes and a point."""
    u, v = 1.2 * spot.u, 1.2 * spot.v - 0.15
    return 0.5 * (length(u, v - 0.75 * np.sqrt(np.abs(u))) - 0.95)


def gear(spot: Spot, dice: Dice) -> Field:
    """A disc with eight to twelve teeth."""
    teeth = np.sin(np.arctan2(spot.v, spot.u) * dice.whole(8, 12))
    edge: Field = length(spot.u, spot.v) - 0.85 - 0.13 * np.clip(2 * teeth, -1, 1)
    return edge


def arrow(spot: Spot, dice: Dice) -> Field:
    """A shaft with a head."""
    shaft = np.maximum(np.abs(spot.u + 0.3) - 0.7, np.abs(spot.v) - 0.16)
    head = np.maximum(0.75 * np.abs(spot.v) + 0.75 * (spot.u - 1), 0.2 - spot.u)
    edge: Field = np.minimum(shaft, head)
    return edge


def nut(spot: Spot, dice: Dice) -> Field:
    """A hexagon, with or without a hole."""
    sides = [np.abs(spot.u * math.cos(a) + spot.v * math.sin(a)) for a in (0, math.pi / 3, 2 * math.pi / 3)]
    edge: Field = np.maximum.reduce(sides) - 0.85
    return np.maximum(edge, 0.3 - length(spot.u, spot.v)) if dice.real() < 0.5 else edge


def drop(spot: Spot, dice: Dice) -> Field:
    """Round at one end, pointed at the other."""
    width = 0.62 * np.sqrt(np.clip(1 - spot.u, 0, 2) / 2) * np.clip(1 + spot.u, 0, 2) ** 0.8
    edge: Field = np.maximum(np.abs(spot.v) - width, np.abs(spot.u) - 1)
    return edge


def bowl(spot: Spot, dice: Dice) -> Field:
    """Half a disc."""
    edge: Field = np.maximum(length(spot.u, spot.v) - 1, spot.v - dice.real(-0.1, 0.25))
    return edge


def bolt(spot: Spot, dice: Dice) -> Field:
    """A zigzag band."""
    fold = 0.55 * (np.abs(((spot.u * 1.5 + 0.5) % 2) - 1) - 0.5)
    edge: Field = np.maximum(np.abs(spot.v - fold) - 0.2, np.abs(spot.u) - 1)
    return edge


def flower(spot: Spot, dice: Dice) -> Field:
    """Five to eight round petals."""
    petals = np.abs(np.cos(np.arctan2(spot.v, spot.u) * dice.whole(5, 8) / 2))
    return 0.8 * (length(spot.u, spot.v) - 0.45 - 0.55 * petals)


OUTLINES = (cushion, cross, heart, gear, arrow, nut, drop, bowl, bolt, flower)

# --- reliefs: H W in [0, 1], the share of an object's second colour ---------------------------------------------------


def striped(spot: Spot, dice: Dice) -> Field:
    """Parallel stripes, along the object."""
    return wave(spot.v * spot.radius * 6.28 / dice.real(5, 8))


def chequered(spot: Spot, dice: Dice) -> Field:
    """Squares of two colours."""
    f = spot.radius * 3.14 / dice.real(4, 6)
    return np.where(np.sin(f * spot.u) * np.sin(f * spot.v) > 0, 1.0, 0.0)


def mottled(spot: Spot, dice: Dice) -> Field:
    """Lumps without order."""
    return np.clip(3 * noise(dice, SIDE, SIDE, dice.real(3, 5)) - 1, 0, 1)


def spiral(spot: Spot, dice: Dice) -> Field:
    """An arm that winds outwards."""
    return wave(length(spot.u, spot.v) * spot.radius * 6.28 / dice.real(6, 9) + np.arctan2(spot.v, spot.u))


def waved(spot: Spot, dice: Dice) -> Field:
    """Stripes that sway."""
    f = spot.radius * 6.28 / dice.real(5, 8)
    return wave(f * (spot.v + 0.2 * np.sin(f * 0.4 * spot.u)))


def halved(spot: Spot, dice: Dice) -> Field:
    """One colour on each side of the axis."""
    return np.where(spot.v > dice.real(-0.2, 0.2), 1.0, 0.0)


def framed(spot: Spot, dice: Dice) -> Field:
    """A square in the middle."""
    return np.where(np.maximum(np.abs(spot.u), np.abs(spot.v)) < dice.real(0.35, 0.55), 1.0, 0.0)


def faded(spot: Spot, dice: Dice) -> Field:
    """From one colour at one end to the other at the other end."""
    return np.clip(0.5 + 0.6 * spot.u, 0, 1)


RELIEFS = (striped, chequered, mottled, spiral, waved, halved, framed, faded)

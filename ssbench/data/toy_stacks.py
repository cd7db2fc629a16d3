"""The toy data in the form of volumes: grey, one size, four scenes a stack, so that recipes for ACDC have a quick run.

No dataset of its own (`data: {dataset: toy, form: grey_stacks}`): the files are those of `ssbench prepare toy`.
"""

from __future__ import annotations

from PIL import Image

from ssbench.data.toy import Toy

SIDE = 64  # pixels; slices of one volume have one size, scenes do not
DEPTH = 4


class ToyStacks(Toy):
    """`Toy`, its scenes as one-channel slices of 64 x 64 pixels and every four of a subset as a volume."""

    channels = 1

    def image(self, id: str) -> Image.Image:
        """The scene in grey, mode L."""
        return super().image(id).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)

    def mask(self, id: str) -> Image.Image:
        """Mode L: 0..5, 255 on borders, resized by the nearest pixel."""
        return super().mask(id).resize((SIDE, SIDE), Image.Resampling.NEAREST)

    def volumes(self, subset: str) -> dict[str, tuple[str, ...]]:
        """Volume -> its four scenes, in the order of their names."""
        ids = self.ids(subset)
        return {f"{subset}_stack{at // DEPTH}": ids[at : at + DEPTH] for at in range(0, len(ids), DEPTH)}

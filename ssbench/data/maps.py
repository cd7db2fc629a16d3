"""Maps that follow an image through its views: functions id -> named layers, joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image

Maps = Callable[[str], Mapping[str, Image.Image]]


class Together:
    """Several sources as one, later names winning; pickles to loader workers."""

    def __init__(self, sources: Sequence[Maps]) -> None:
        self.sources = tuple(sources)

    def __call__(self, id: str) -> dict[str, Image.Image]:
        """All maps of the image `id`."""
        return {name: layer for source in self.sources for name, layer in source(id).items()}

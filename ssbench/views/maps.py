"""Maps that follow an image through its views: functions id -> named layers, joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from ssbench.errors import RecipeError

Maps = Callable[[str], Mapping[str, Image.Image]]


class Together:
    """Several sources as one; pickles to loader workers."""

    def __init__(self, sources: Sequence[Maps]) -> None:
        self.sources = tuple(sources)

    def __call__(self, id: str) -> dict[str, Image.Image]:
        """All maps of the image `id`.

        Raises:
            RecipeError: two sources hand on maps of one name (stacked plug-ins, say).
        """
        found: dict[str, Image.Image] = {}
        for layers in (source(id) for source in self.sources):
            if twice := sorted(found.keys() & layers.keys()):
                raise RecipeError(f"two sources hand on maps called '{twice[0]}'", f"image {id}", "rename one of them")
            found |= layers
        return found

"""Maps of several sources that follow one image."""

from __future__ import annotations

import pytest
from PIL import Image

from ssbench.errors import RecipeError
from ssbench.views.sample import Together

ONE, TWO = Image.new("L", (2, 2), 1), Image.new("F", (2, 2), 2.0)


def test_sources_are_joined_image_by_image() -> None:
    both = Together([lambda id: {"boxes": ONE} if id == "a" else {}, lambda _: {"entropy": TWO}])
    assert both("a") == {"boxes": ONE, "entropy": TWO}
    assert both("b") == {"entropy": TWO}


def test_two_of_one_name_are_refused() -> None:
    both = Together([lambda _: {"boxes": ONE}, lambda id: {"boxes": TWO} if id == "b" else {}])
    assert both("a") == {"boxes": ONE}
    with pytest.raises(RecipeError, match="two sources hand on maps called 'boxes'") as error:
        both("b")
    assert error.value.where == "image b"

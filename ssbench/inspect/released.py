"""A checkpoint its authors released, scored under the protocol of its recipe and kept as a claim."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from ssbench.errors import UsageError
from ssbench.files import sha256
from ssbench.inspect.scoring import score_checkpoint
from ssbench.recipe.recipe import Recipe, load
from ssbench.splits.manifest import Partition
from ssbench.tables.claims import Claim


def scored_claim(path: Path, recipe_name: str, split: str | None, data_root: Path) -> Claim:
    """Score `path` as `ssbench eval` does; percent to two decimals.

    Raises:
        UsageError: no split is given. DataError: the file or the data are missing, damaged or of another network.
    """
    recipe = load(recipe_name, data_root=data_root)
    if split is None:
        raise UsageError(f"which split was {path.name} trained on?", "--split", "ssbench list splits")
    name = Partition.read(split, data_root).name
    found = score_checkpoint(path, recipe_name, None, None, data_root, None)
    source = f"released checkpoint {path.name} (SHA-256 {sha256(path)[:12]}), scored under {recipe.name}"
    value = Decimal(f"{found['value']:.2f}")
    note = f"{found['protocol']} on {found['subset']}"
    plugin = "+".join(p.name for p in recipe.plugins) or None
    return Claim(recipe.method.name, plugin, name, _backbone(recipe), recipe.views.crop, found["metric"], value,
                 "checkpoint", source, note)  # fmt: skip


def _backbone(recipe: Recipe) -> str:
    """The papers' word: ResNets with a deep stem are called as those without; nets without an encoder by name."""
    encoder = str(getattr(recipe.net, "encoder", recipe.net.name))
    return encoder.removesuffix("s") if encoder.startswith("resnet") else encoder

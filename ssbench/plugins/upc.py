"""UPC: the patches a teacher is least sure of are replaced by labelled ones, ground truth and all.

Paper: "Uncertainty-aware Patch CutMix" ("Locating Noise is Halfway Denoising for Semi-Supervised Segmentation", ICCV
2023), Secs. 3.1-3.2. No code by the authors was found; there is one variant. The rivals of its Table 5 are values of
`mixer`.
Readings that are ours (card: upc 3): partners are drawn from the current labelled batch, one for each copy and image;
the operation is always applied; it replaces the host's own mixing; pasted pixels pass every rule of the host; with
`ras: all` the loss is the mean over the copies; padding has entropy 0.
The image-level labels of Table 4 are a setting of the host, `image_labels` of stpp (card: upc 5).
Departure: hosts that colour their strong view paste the weakly augmented labelled patch into it, where our reading of
the paper would colour the mixed image. Hosts without colour (CPS, U2PL, CutMix-Seg) and ST++, which mixes before
colouring, follow the reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from ssbench.data.batch import Batch, Unlabeled
from ssbench.ops import confidence, patch_grid
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import Count, MixedView, Plugin, PluginConfig


class UPC(Plugin):
    """x and y of the labelled image inside the k most uncertain patches, of the unlabelled one elsewhere (Eqs. 3-7)."""

    zero: ClassVar = {"mixer": "host"}

    class Config(PluginConfig):
        """Settings."""

        name: Literal["upc"] = "upc"
        mixer: Literal["upc", "cutmix", "copy_paste", "random_erasing", "none", "host"] = "upc"  # Table 5
        grid: Count = 4  # Sec. 4.1, N
        k: Count = 5  # Sec. 4.3, with ras off
        ras: Literal["all", "sample", "off"] = "all"  # Sec. 3.2.3, Eq. 7
        ras_k: Annotated[tuple[Count, ...], Field(min_length=1)] = (2, 3, 5)  # Sec. 4.1
        guidance: Literal["entropy", "random", "oracle"] = "entropy"  # Eq. 1; Table 7

        @field_validator("ras", mode="before")
        @classmethod
        def _yaml_switch(cls, value: Any) -> Any:
            """YAML reads a bare `off` as false and `on` as true."""
            return {True: "all", False: "off"}[value] if isinstance(value, bool) else value

        @model_validator(mode="after")
        def _fits(self) -> UPC.Config:
            if self.mixer != "upc":
                self._refuse_unread(f"mixer: {self.mixer}", "grid", "k", "ras", "ras_k", "guidance")
            elif self.ras == "off":
                self._refuse_unread("ras: off", "ras_k")
            else:
                self._refuse_unread(f"ras: {self.ras}", "k")
            if (largest := max(self.copies)) > self.grid**2:
                raise ValueError(f"{largest} patches of a grid of {self.grid} x {self.grid}")
            return self

        @property
        def copies(self) -> tuple[int, ...]:
            """How many patches are replaced in each mixed copy."""
            return (self.k,) if self.ras == "off" else self.ras_k

        @property
        def mixed_views(self) -> int | None:
            """One, or with `ras: all` one for each number of patches."""
            if self.mixer == "host":
                return None
            return len(self.copies) if self.mixer == "upc" and self.ras != "sample" else 1

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        """One mixed view for each k, instead of the host's (Eqs. 6, 7)."""
        here = batch.unlabeled
        assert here is not None  # noqa: S101  hosts that mix have unlabelled images
        if self.cfg.mixer == "host":
            return host()
        if self.cfg.mixer == "none":
            return [MixedView(_strong(here), weak, here.weak)]
        if self.cfg.mixer == "random_erasing":
            return [self._erased(here, weak, t)]
        regions = self._regions(batch, weak, t)
        return [self._pasted(batch, weak, region, copy, t) for copy, region in enumerate(regions)]

    def _regions(self, batch: Batch, weak: Pseudo, t: Progress) -> list[Tensor]:
        """For each copy B H W bool: where the labelled image goes (M_k of Eq. 4; another region for its rivals)."""
        if self.cfg.mixer == "cutmix":
            return [_rectangles(weak.label, _beta_areas(len(weak.label), t), t)]
        if self.cfg.mixer == "copy_paste":
            return [_foreground(batch.labeled.y[_donors(batch, len(weak.label), 0, t)], self.classes, t)]
        order, (height, width) = self._order(batch, weak, t), weak.label.shape[-2:]
        masks = [patch_grid.patch_mask(order, k, height, width, self.cfg.grid) for k in self.cfg.copies]  # Eq. 4
        if self.cfg.ras != "sample":
            return masks
        pick = torch.randint(len(masks), (len(order), 1, 1), generator=t.generator("upc k"), device=order.device)
        return [torch.stack(masks).gather(0, pick.expand(-1, height, width)[None])[0]]

    def _order(self, batch: Batch, weak: Pseudo, t: Progress) -> Tensor:
        """B N^2 int64: the patches of each image, the first to be replaced first."""
        n, device = self.cfg.grid**2, weak.label.device
        if self.cfg.guidance == "random":
            drawn = torch.rand(len(weak.label), n, generator=t.generator("upc patches"), device=device)
            return patch_grid.rank_patches(drawn)
        if self.cfg.guidance == "oracle":
            assert batch.unlabeled is not None  # noqa: S101  checked in `mix`
            truth = torch.where(weak.valid, batch.unlabeled.truth, 255)
            iou, wrong = patch_grid.patch_agreement(weak.label, truth, self.classes, self.cfg.grid)
            ties = wrong / (1e3 * weak.label[0].numel())  # of patches of one IoU those with more wrong pixels first
            return patch_grid.rank_patches(-iou + ties)
        unsure = weak.carry["entropy"] if weak.probs is None else confidence.entropy(weak.probs)  # Eq. 1, B H W
        return patch_grid.rank_patches(patch_grid.patch_sums(unsure * weak.valid, self.cfg.grid))  # Eq. 3

    def _pasted(self, batch: Batch, weak: Pseudo, region: Tensor, copy: int, t: Progress) -> MixedView:
        """Eqs. 5 and 6: labelled images and labels inside `region` (B H W bool), the unlabelled ones elsewhere."""
        here = batch.unlabeled
        assert here is not None  # noqa: S101  checked in `mix`
        donors = _donors(batch, len(weak.label), copy, t)
        x, y = batch.labeled.x[donors], batch.labeled.y[donors]
        known = y != 255
        blank = {name: torch.full_like(value, 255 if name == "truth" else 0) for name, value in weak.carry.items()}
        given = Pseudo(
            y.where(known, torch.zeros_like(y)), torch.ones_like(weak.conf), known, known, trusted=known, carry=blank
        )
        kept = Pseudo(weak.label, weak.conf, weak.keep, weak.valid, carry=weak.carry)
        return MixedView(paste(_strong(here), x, region), kept.pasted(given, region), paste(here.weak, x, region))

    def _erased(self, here: Unlabeled, weak: Pseudo, t: Progress) -> MixedView:
        """One noisy rectangle an image with p 0.5, its pixels out of the loss (Table 5, Random Erasing)."""
        generator, images = t.generator("upc erase"), _strong(here)
        share = 0.02 + 0.38 * torch.rand(len(images), generator=generator, device=images.device)
        gate = torch.rand(len(images), 1, 1, generator=generator, device=images.device) < 0.5
        region = _rectangles(weak.label, share, t) & gate
        noise = torch.rand(images.shape, generator=generator, device=images.device)
        span = images.amax((2, 3), keepdim=True) - images.amin((2, 3), keepdim=True)
        noisy = paste(images, images.amin((2, 3), keepdim=True) + noise * span, region)
        left = Pseudo(weak.label, weak.conf, weak.keep & ~region, weak.valid & ~region, carry=weak.carry)
        return MixedView(noisy, left, here.weak)


def _strong(here: Unlabeled) -> Tensor:
    """B 3 H W: the first strong view, or the weak one of a host without colours."""
    return here.strong[0] if here.strong else here.weak


def _donors(batch: Batch, count: int, copy: int, t: Progress) -> Tensor:
    """A labelled image for each unlabelled one, drawn afresh for every copy; the same for every network of a host."""
    labeled, device = len(batch.labeled.x), batch.labeled.x.device
    return torch.randint(labeled, (count,), generator=t.generator(f"upc donors {copy} {t.rank}"), device=device)


def _beta_areas(count: int, t: Progress) -> Tensor:
    """Area shares 1 - lambda, lambda from Beta(1, 1), which is uniform (Table 5, CutMix)."""
    return torch.rand(count, generator=t.generator("upc cutmix"), device=t.device)


def _rectangles(like: Tensor, share: Tensor, t: Progress) -> Tensor:
    """B H W bool: one rectangle an image of the given share of its area, aspect ratio in [0.3, 1 / 0.3], inside."""
    count, height, width = like.shape
    draw = torch.rand(3, count, generator=t.generator("upc box"), device=like.device)
    low = torch.full((), 0.3, device=like.device).log()
    ratio = torch.exp(low + draw[0] * -2 * low)
    tall = (share * height * width * ratio).sqrt().clamp(max=height).floor()
    wide = (share * height * width / ratio).sqrt().clamp(max=width).floor()
    top, left = ((height - tall + 1) * draw[1]).floor(), ((width - wide + 1) * draw[2]).floor()
    rows = torch.arange(height, device=like.device)[None]
    columns = torch.arange(width, device=like.device)[None]
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]


def _foreground(labels: Tensor, classes: int, t: Progress) -> Tensor:
    """B H W bool: pixels of a random half of each donor's foreground classes (Table 5, Copy-Paste)."""
    present = torch.stack([(labels == c).flatten(1).any(1) for c in range(1, classes)], 1)
    drawn = torch.rand(present.shape, generator=t.generator("upc classes"), device=labels.device)
    drawn = drawn.masked_fill(~present, 2.0)
    half = (present.sum(1, keepdim=True) + 1) // 2
    chosen = (drawn.argsort(1).argsort(1) < half) & present
    table = torch.cat([torch.zeros_like(chosen[:, :1]), chosen], 1)
    safe = labels.where(labels < classes, torch.zeros_like(labels))
    return table.gather(1, safe.flatten(1)).view_as(labels)

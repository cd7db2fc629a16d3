"""A trained network for other programs: ONNX, TorchScript or torch.export, compared with the original first.

What is written is the one network the method's scores come from (the teacher of a teacher-student method), in eval
mode: normalised image 1 C H W -> logits 1 K H W. Beside it `<file>.json` says what it must be fed and what it answers.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssbench.errors import HardwareError, SsbenchError, UsageError
from ssbench.files import sha256, write_bytes, write_json
from ssbench.inspect.scoring import bare_net, restored
from ssbench.keyed import key
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.recipe.recipe import Recipe, load
from ssbench.train.build import dataset_of
from ssbench.views import tensors

Form = Literal["onnx", "torchscript", "pt2"]
BAND = 1e-3
"""Largest accepted difference of a logit, as a share of the largest logit (another runtime sums in another order)."""


class ParityError(SsbenchError):
    """The exported network answers otherwise than the original; nothing was written."""


class Logits(nn.Module):
    """A network's logits alone."""

    def __init__(self, net: SegNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B K H W."""
        logits: Tensor = self.net(x).logits
        return logits


def export(
    checkpoint: Path, recipe_name: str, form: Form, out: Path, size: tuple[int, int] | None, data_root: Path
) -> dict[str, Any]:
    """Write `out` and `out.json`; `size` (H, W) defaults to the recipe's crop, and is fixed in the file.

    Returns:
        The documented object of `ssbench export --json`.

    Raises:
        DataError: the checkpoint is missing or of another recipe. HardwareError: ONNX without its packages.
        ParityError: the exported network differs from the original by more than `BAND`.
    """
    recipe = load(recipe_name, ("net.weights=random",), data_root=data_root)
    dataset = dataset_of(recipe.data.dataset, data_root, recipe.data.form)
    net = Logits(deployed(recipe, checkpoint, len(dataset.classes), dataset.channels)).eval()
    height, width = size or (recipe.views.crop, recipe.views.crop)
    x = torch.randn(1, dataset.channels, height, width, generator=torch.Generator().manual_seed(key(0, "export")))
    with torch.no_grad():
        expected = net(x)
    mean, std = (tensors.MEAN, tensors.STD) if recipe.views.normalise == "imagenet" else ((0.0,), (1.0,))
    data, answer = _made(net, x, form)
    parity = _compared(expected, answer, out)
    write_bytes(out, data)
    about = {
        "file": out.name, "form": form, "recipe": recipe.name, "checkpoint": str(checkpoint),
        "checkpoint_sha256": sha256(checkpoint), "input": [1, dataset.channels, height, width],
        "range": [0, 1], "mean": list(mean), "std": list(std),
        "output": list(expected.shape), "classes": list(dataset.classes), "palette": [list(c) for c in dataset.palette],
        "parity": parity,
    }  # fmt: skip
    write_json(out.with_name(out.name + ".json"), about)
    return {**about, "file": str(out), "bytes": len(data)}


def deployed(recipe: Recipe, path: Path, classes: int, channels: int) -> SegNet:
    """The network that `path`'s scores come from: what the method's `predict` asks, or a released bare network."""
    method = restored(recipe, path, classes, channels, torch.device("cpu"))
    return bare_net(recipe, path, classes, channels) if method is None else _asked(method, channels)


def _asked(method: Method, channels: int) -> SegNet:
    """The one network `predict` runs, seen by watching it run."""
    seen: list[SegNet] = []
    hooks = [
        m.register_forward_hook(lambda module, *_: seen.append(module))
        for m in method.modules()
        if isinstance(m, SegNet)
    ]
    with torch.no_grad():
        method.predict(torch.zeros(1, channels, 65, 65))
    for hook in hooks:
        hook.remove()
    if len(seen) != 1:
        what = f"{type(method).__name__} answers with {len(seen)} networks"
        raise UsageError(what, "--recipe", "only a method that answers with one network can be exported")
    return seen[0]


def _made(net: nn.Module, x: Tensor, form: Form) -> tuple[bytes, Tensor]:
    """The bytes of the exported network, and what they answer to x when read again."""
    write = {"onnx": _onnx, "torchscript": _torchscript, "pt2": _pt2}[form]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters warn of what the comparison below decides
        path = Path(folder) / f"net.{form}"
        answer = write(net, x, path)
        return path.read_bytes(), answer


def _torchscript(net: nn.Module, x: Tensor, path: Path) -> Tensor:
    torch.jit.save(torch.jit.trace(net, x), str(path))  # type: ignore[no-untyped-call]
    answer: Tensor = torch.jit.load(str(path))(x)  # type: ignore[no-untyped-call]
    return answer.detach()


def _pt2(net: nn.Module, x: Tensor, path: Path) -> Tensor:
    torch.export.save(torch.export.export(net, (x,)), str(path))
    answer: Tensor = torch.export.load(str(path)).module()(x)
    return answer.detach()


def _onnx(net: nn.Module, x: Tensor, path: Path) -> Tensor:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        what = f"ONNX needs a package that is not installed: {error.name}"
        raise HardwareError(what, "--form onnx", "pip install 'ssbench[export]'") from None
    torch.onnx.export(net, (x,), str(path), input_names=["image"], output_names=["logits"], dynamo=True,
                      external_data=False, verbose=False)  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])


def _compared(expected: Tensor, answer: Tensor, out: Path) -> dict[str, float]:
    """How far `answer` is from `expected`, both 1 K H W."""
    if answer.shape != expected.shape or not answer.isfinite().all():
        raise ParityError(
            f"the exported network answers {list(answer.shape)}, not finite {list(expected.shape)}", str(out)
        )
    gap = ((answer - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    same = (answer.argmax(1) == expected.argmax(1)).float().mean().item()
    if gap > BAND:
        what = (
            f"the exported network differs: largest difference {gap:.2g} of the largest logit, labels equal {same:.2%}"
        )
        raise ParityError(what, str(out), "another --form, or another version of its packages; nothing was written")
    return {"difference": gap, "labels_equal": same}

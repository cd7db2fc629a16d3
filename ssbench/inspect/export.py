"""A trained network for other programs, as ONNX, TorchScript or torch.export, compared with the original first.

What is written is the one network that the method's scores come from (the teacher of a teacher-student method), in eval
mode: normalised image 1 C H W -> logits 1 K H W. `<file>.json` beside it describes input and output.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssbench.errors import HardwareError, SsbenchError
from ssbench.files import sha256, write_bytes, write_json
from ssbench.inspect.opened import CheckpointUse, open_checkpoint
from ssbench.keyed import key
from ssbench.nets.segnet import SegNet
from ssbench.train.build import normalisation

Form = Literal["onnx", "torchscript", "pt2"]
BAND = 1e-3
"""Largest accepted difference of a logit, as a share of the largest logit (another runtime sums in another order)."""


class ParityError(SsbenchError):
    """The exported network answers otherwise than the original; nothing was written."""


class LogitsOnly(nn.Module):
    """A network that returns its logits alone: exported files have one output."""

    def __init__(self, net: SegNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """B C H W -> B K H W."""
        logits: Tensor = self.net(x).logits
        return logits


def export(
    checkpoint: Path, use: CheckpointUse, form: Form, out: Path, size: tuple[int, int] | None, data_root: Path
) -> dict[str, Any]:
    """Write `out` and `out.json`; `size` (H, W) defaults to the recipe's crop, and is fixed in the file.

    Args:
        overrides: `--set` of the recipe, as the checkpoint's run had them.
    Returns:
        The documented object of `ssbench export --json`.

    Raises:
        DataError: the checkpoint is missing or of another recipe. HardwareError: ONNX without its packages.
        ParityError: the exported network differs from the original by more than `BAND`.
    """
    opened = open_checkpoint(checkpoint, use, data_root)
    recipe, outputs = opened.recipe, opened.outputs
    net = LogitsOnly(opened.network(torch.device("cpu"))).eval()
    height, width = size or (recipe.views.crop, recipe.views.crop)
    x = torch.randn(1, outputs.channels, height, width, generator=torch.Generator().manual_seed(key(0, "export")))
    with torch.no_grad():
        expected = net(x)
    mean, std = normalisation(recipe)
    data, answer = _written_and_read(net, x, form)
    parity = _parity(expected, answer, out)
    write_bytes(out, data)
    about = {
        "file": out.name, "form": form, "recipe": recipe.name, "checkpoint": str(checkpoint),
        "checkpoint_sha256": sha256(checkpoint), "input": [1, outputs.channels, height, width],
        "range": [0, 1], "mean": list(mean), "std": list(std),
        "output": list(expected.shape), "classes": list(outputs.classes), "palette": [list(c) for c in outputs.palette],
        "parity": parity,
    }  # fmt: skip
    write_json(out.with_name(out.name + ".json"), about)
    return {**about, "file": str(out), "bytes": len(data)}


def _written_and_read(net: nn.Module, x: Tensor, form: Form) -> tuple[bytes, Tensor]:
    """The exported file's bytes, and what the network read from that file answers to x."""
    write = {"onnx": _onnx, "torchscript": _torchscript, "pt2": _pt2}[form]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters warn of differences; the comparison afterwards decides
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


def _parity(expected: Tensor, answer: Tensor, out: Path) -> dict[str, float]:
    """How far `answer` is from `expected`, both 1 K H W. ParityError where that is too far."""
    if answer.shape != expected.shape or not answer.isfinite().all():
        what = f"the exported network answers {list(answer.shape)}, not finite {list(expected.shape)}"
        raise ParityError(what, str(out))
    gap = ((answer - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    equal = (answer.argmax(1) == expected.argmax(1)).float().mean().item()
    if gap > BAND:
        what = f"the exported network differs by {gap:.2g} of the largest logit, labels equal on {equal:.2%}"
        raise ParityError(what, str(out), "another --form, or another version of its packages; nothing was written")
    return {"difference": gap, "labels_equal": equal}

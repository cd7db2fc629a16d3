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

from ssbench.data.dataset import Dataset
from ssbench.errors import HardwareError, SsbenchError, UsageError
from ssbench.files import sha256, write_bytes, write_json
from ssbench.inspect.networks import BARE, load_method, load_released
from ssbench.keyed import key
from ssbench.nets.segnet import SegNet
from ssbench.recipe.recipe import Recipe, load
from ssbench.train.build import dataset_of
from ssbench.views import tensors

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
    checkpoint: Path, recipe_name: str, form: Form, out: Path, size: tuple[int, int] | None, data_root: Path
) -> dict[str, Any]:
    """Write `out` and `out.json`; `size` (H, W) defaults to the recipe's crop, and is fixed in the file.

    Returns:
        The documented object of `ssbench export --json`.

    Raises:
        DataError: the checkpoint is missing or of another recipe. HardwareError: ONNX without its packages.
        ParityError: the exported network differs from the original by more than `BAND`.
    """
    recipe = load(recipe_name, BARE, data_root=data_root)
    dataset = dataset_of(recipe, data_root)
    net = LogitsOnly(scored_network(recipe, checkpoint, dataset)).eval()
    height, width = size or (recipe.views.crop, recipe.views.crop)
    x = torch.randn(1, dataset.channels, height, width, generator=torch.Generator().manual_seed(key(0, "export")))
    with torch.no_grad():
        expected = net(x)
    mean, std = tensors.STATISTICS.get(recipe.views.normalise, ((0.0,), (1.0,)))
    data, answer = _written_and_read(net, x, form)
    parity = _parity(expected, answer, out)
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


def scored_network(recipe: Recipe, path: Path, dataset: Dataset) -> SegNet:
    """The one network that the scores of a checkpoint come from; of a released file, its network.

    Raises:
        DataError: the checkpoint is missing, damaged or of another recipe.
        UsageError: the method's prediction takes several networks.
    """
    method = load_method(recipe, path, dataset, torch.device("cpu"))
    if method is None:
        return load_released(recipe, path, dataset)
    # A method's `predict` says which of its networks is scored; running it shows which one that is.
    ran: list[SegNet] = []
    nets = [module for module in method.modules() if isinstance(module, SegNet)]
    hooks = [net.register_forward_hook(lambda module, *_: ran.append(module)) for net in nets]
    with torch.no_grad():
        method.predict(torch.zeros(1, dataset.channels, 65, 65))
    for hook in hooks:
        hook.remove()
    if len(ran) != 1:
        what = f"{type(method).__name__} predicts with {len(ran)} networks"
        raise UsageError(what, "--recipe", "only a method that predicts with one network can be exported")
    return ran[0]


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

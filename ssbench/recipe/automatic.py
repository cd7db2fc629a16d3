"""Fills in the word "auto" of a recipe: crop, batch, encoder, steps and others by stated rules, each with its reason.

`recipes/tasks/own.yaml` writes "auto" where a value depends on the dataset or the device. A rule reads the facts of the
dataset (`task.TaskFacts`), whether there is a GPU, and the values that are settled already, so `--set views.crop=257`
also moves what follows from the crop. A line of the dataset's task file goes before its rule.

| value | rule |
|---|---|
| crop | largest 16 k + 1 within the short side, at most 161 on a CPU and 513 on a GPU |
| scale | as the VOC recipes where the crop covers 3/4 of the short side; smaller pictures for a smaller crop |
| encoder, weights | the ImageNet encoder that can be had (`recipe.encoder_choice`), never random weights |
| normalise | as for the ImageNet weights of the encoder |
| wide | a quarter of the released decoders on a CPU |
| lr, head | 0.005 and 5 over ImageNet weights, 0.02 and 1 from random ones |
| batches | 8 on a CPU, 16 on a GPU; no more than the smallest list, a power of two |
| steps | passes over the training images, 10 within 400 to 1,000 steps (CPU), 60 within 2,000 to 40,000 (GPU) |
| report, every | test where there is a test subset; about ten scores a run |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssbench.errors import RecipeError
from ssbench.nets.pretrained import PACKAGED, normalisation_of
from ssbench.recipe.device import has_gpu
from ssbench.recipe.encoder_choice import best_encoder, source_here
from ssbench.recipe.marks import Keys, Mark, Marked
from ssbench.recipe.task import TaskFacts, read_task, task_facts

AUTO = "auto"
Settled = Callable[[str], Any]
"""The value of "section.field", None where the recipe has none."""
Rule = Callable[[TaskFacts, bool, Settled], tuple[Any, str]]
"""Facts, whether there is a GPU, settled values -> value and reason."""

FULL_CROP = 0.75  # ours: VOC's crop of 321 is 0.85 of its pictures' short side, Cityscapes' 801 is 0.78


def fill_in(
    marked: Marked,
    dataset: str | None,
    data_root: Path,
    with_task: bool = True,
    done: Mapping[str, Any] | None = None,
) -> Marked:
    """`marked` with every "auto" replaced; unchanged where there is none.

    Args:
        dataset: the one of the split, for `data.dataset: auto`.
        with_task: whether the dataset's task file goes before the rules.
        done: the resolved settings of a stored run, which go before both: its dataset need not be there any more.
    Raises:
        RecipeError: no dataset is named. DataError: the dataset is not prepared.
    """
    known = {*RULES, "data.dataset"}  # elsewhere the word is a value like any other
    blocks = [(s, block) for s, block in marked.data.items() if isinstance(block, dict)]
    places = [(s, f) for s, block in blocks for f, value in block.items() if value == AUTO and f"{s}.{f}" in known]
    if not places:
        return marked
    data = {name: dict(block) if isinstance(block, dict) else block for name, block in marked.data.items()}
    marks = dict(marked.marks)
    if ("data", "dataset") in places:
        if dataset is None:
            fix = "--set data.dataset=NAME, or for a run --split NAME/custom/1_8; ssbench list datasets"
            raise RecipeError("this recipe is for any dataset: which one?", str(marked.at(("data", "dataset"))), fix)
        data["data"]["dataset"] = dataset
    if done is not None:
        for section, field in places:
            data[section][field] = (done.get(section) or {}).get(field, data[section][field])
        return Marked(data, marks)
    facts, on_gpu = task_facts(str(data["data"]["dataset"]), data_root), has_gpu()
    task = read_task(facts.dataset, data_root) if with_task else Marked({})

    def settled(path: str) -> Any:
        section, field = path.split(".")
        return (data.get(section) or {}).get(field)

    for section, field in sorted(places, key=_order):
        if (section, field) == ("data", "dataset"):
            continue
        value, mark = _value(section, field, task, facts, on_gpu, settled, marked.at((section, field)))
        data[section][field] = value
        marks = {keys: m for keys, m in marks.items() if keys[:2] != (section, field)}
        marks[section, field] = mark
    return Marked(data, marks)


def _order(place: Keys) -> int:
    path = ".".join(map(str, place))
    return list(RULES).index(path) if path in RULES else -1  # the dataset comes first


def _value(
    section: str, field: str, task: Marked, facts: TaskFacts, on_gpu: bool, settled: Settled, at: Mark
) -> tuple[Any, Mark]:
    """A value and where it is from: the task file's line, or the recipe's with the rule's reason."""
    path = f"{section}.{field}"
    if field in (task.data.get(section) or {}):
        value, mark = task.data[section][field], task.at((section, field))
    else:
        value, reason = RULES[path](facts, on_gpu, settled)
        mark = Mark(at.file, at.line, f"ours: {reason}")
    if path == "schedule.steps" and settled("method.name") == "stpp":
        return max(1, value // 2), Mark(mark.file, mark.line, f"{mark.comment}; half, for three trainings")
    return value, mark


def _crop(facts: TaskFacts, on_gpu: bool, settled: Settled) -> tuple[Any, str]:
    most = 513 if on_gpu else 161
    crop = max(65, (min(most, facts.short_side) - 1) // 16 * 16 + 1)
    return crop, f"16 k + 1 within the short side of {facts.short_side} and {most} ({_device(on_gpu)})"


def _scale(facts: TaskFacts, on_gpu: bool, settled: Settled) -> tuple[Any, str]:
    covered = int(settled("views.crop")) / facts.short_side
    factor = min(1.0, covered / FULL_CROP)
    pair = [round(max(0.05, 0.5 * factor), 2), round(max(0.1, 2.0 * factor), 2)]
    return pair, f"0.5 to 2 as on VOC, by {factor:.2f}, so that a crop shows as much of a picture"


def _encoder(facts: TaskFacts, on_gpu: bool, settled: Settled) -> tuple[Any, str]:
    best = best_encoder(on_gpu, channels=facts.channels)
    return best.encoder, f"{_device(on_gpu)}; {best}"


def _weights(facts: TaskFacts, on_gpu: bool, settled: Settled) -> tuple[Any, str]:
    is_packaged = source_here(str(settled("net.encoder"))) == "package"
    return "package" if is_packaged else "imagenet", "never silently random; a file, or --set net.weights=random"


def _normalise(facts: TaskFacts, on_gpu: bool, settled: Settled) -> tuple[Any, str]:
    if facts.channels == 1:
        return "none", "one channel"
    # By the encoder, whatever its weights: commands that read a checkpoint build the network with random ones.
    encoder = str(settled("net.encoder"))
    own = normalisation_of(encoder, "package" if encoder in PACKAGED else "imagenet")
    return own or "imagenet", "goes with the encoder's ImageNet weights"


def _unlabeled_batch(facts: TaskFacts, on_gpu: bool, settled: Settled) -> tuple[Any, str]:
    labeled = int(settled("schedule.labeled_batch"))
    fitting = min(labeled, _power_of_two(facts.unlabeled, on_gpu, at_least=1))
    return fitting, f"as many as labelled ones; smallest unlabelled list {facts.unlabeled}"


def _steps(facts: TaskFacts, on_gpu: bool, settled: Settled) -> tuple[Any, str]:
    passes, least, most = (60, 2000, 40_000) if on_gpu else (10, 400, 1000)
    steps = facts.train * passes // max(1, int(settled("schedule.unlabeled_batch") or 1))
    steps = min(max(steps, least), most) // 20 * 20
    return steps, f"{passes} passes over {facts.train} images, within {least} and {most} ({_device(on_gpu)})"


def _every(facts: TaskFacts, on_gpu: bool, settled: Settled) -> tuple[Any, str]:
    batch = max(1, int(settled("schedule.unlabeled_batch") or settled("schedule.labeled_batch")))
    epochs = int(settled("schedule.steps")) / max(1, facts.train // batch)
    return max(1, round(epochs / 10)), "about ten scores a run"


def _is_random(settled: Settled) -> bool:
    return bool(settled("net.weights") == "random")


def _device(on_gpu: bool) -> str:
    return "a GPU" if on_gpu else "a CPU"


def _power_of_two(listed: int, on_gpu: bool, at_least: int = 2) -> int:
    most = min(16 if on_gpu else 8, max(listed, at_least))
    return int(2 ** (most.bit_length() - 1))


RULES: dict[str, Rule] = {
    "views.crop": _crop,
    "views.scale": _scale,
    "net.encoder": _encoder,
    "net.weights": _weights,
    "views.normalise": _normalise,
    "net.wide": lambda _, on_gpu, __: (
        (256, "as every release") if on_gpu else (64, "a quarter of the released decoders, for a CPU")
    ),
    "optim.lr": lambda _, __, settled: (
        (0.02, "from random weights") if _is_random(settled) else (0.005, "over ImageNet weights")
    ),
    "optim.head": lambda _, __, settled: (
        (1, "nothing is pretrained") if _is_random(settled) else (5, "the encoder is pretrained, the rest is not")
    ),
    "schedule.labeled_batch": lambda facts, on_gpu, _: (
        _power_of_two(facts.labeled, on_gpu),
        f"smallest labelled list {facts.labeled}, {_device(on_gpu)}",
    ),
    "schedule.unlabeled_batch": _unlabeled_batch,
    "schedule.steps": _steps,
    "eval.report": lambda facts, _, __: (
        ("test", "val chooses the epoch") if "test" in facts.subsets else ("val", "there is no test subset")
    ),
    "eval.every": _every,
    "method.low_rank": lambda facts, _, __: (
        max(1, min(3, facts.classes // 2)),
        f"the release's 3 of 21 classes; at most half of {facts.classes}",
    ),
    "method.high_rank": lambda facts, _, __: (max(2, facts.classes), "all classes; the release's 20 of 21"),
    "method.group": lambda _, __, settled: (int(settled("schedule.unlabeled_batch")), "the whole batch: one process"),
}
"""In the order in which they are settled: a rule reads only what stands above it."""

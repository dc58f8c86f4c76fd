"""How good a network is, what it costs, and one table of it all for several."""

import math
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fsc.arguments import check_fits, check_images
from fsc.inputs.tasks import Images, Task
from fsc.measure.latency import latency, one_device
from fsc.runtime import Progress, device_of, evaluating, public, track


class Cost(NamedTuple):
    """What a network costs: its parameters (shared ones once), and the multiply-accumulates of one image."""

    params: int
    macs: int


@public
def accuracy(
    model: nn.Module, images: Images, *, topk: int = 1, batch_size: int = 256, progress: Progress | None = None
) -> float:
    """Share of the images whose class is among the `topk` that the network scores highest, in [0, 1].

    Runs where the network lives, in eval mode, without gradients.

    Args:
        model: (N, C, H, W) -> (N, classes).
        images: labelled ones: `task.test`, or a sample of a task.

    Raises:
        TypeError: `images` is a tensor or a task.
        ValueError: no labels; `topk` outside 1 .. classes; labels beyond the network's classes; NaN in its output.

    >>> round(fsc.accuracy(teacher, task.test), 3)
    0.91
    """
    _check_set("accuracy", images)
    if images.labels is None:
        raise ValueError(
            f"accuracy: these {len(images)} images have no labels.\n"
            f"  Take labelled ones (task.test), or ask how often two networks agree, which needs none: fsc.agreement."
        )
    (top,) = _top("accuracy", [model], images, topk, batch_size, progress)
    return _share(top == images.labels.cpu()[:, None])


@public
def agreement(
    model: nn.Module, teacher: nn.Module, images: Images, *, batch_size: int = 256, progress: Progress | None = None
) -> float:
    """Share of the images on which both networks score the same class highest, in [0, 1]. Needs no labels.

    Raises:
        TypeError: `images` is a tensor or a task.
        ValueError: the networks tell apart different numbers of classes; NaN in an output.
    """
    _check_set("agreement", images)
    mine, theirs = _top("agreement", [model, teacher], images, 1, batch_size, progress)
    return _share(mine == theirs)


@public
def cost(model: nn.Module, example: Tensor) -> Cost:
    """Parameters, and multiply-accumulates (MACs) of one forward pass on one image.

    MACs are those of convolutions and matrix products, half of what `torch.utils.flop_counter` counts. Adding a bias,
    BatchNorm, activations and pooling count for nothing, as is usual.

    Args:
        example: (N, C, H, W); only its size matters, N does not.

    >>> fsc.cost(teacher, task.example)
    Cost(params=269722, macs=40551040)
    """
    check_images(example)
    check_fits(example, model)
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example[:1].to(device_of(model)))
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


@public
def compare(
    models: dict[str, nn.Module],
    task: Task,
    *,
    images: Images | None = None,
    batch_size: int = 256,
    latency_batch: int = 1,
    latency_rounds: int = 30,
    threads: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """One table of several networks: how good, how like the reference, how large, how fast.

    The reference is the network named "teacher" or, without one of that name, the first.

    Args:
        models: networks by name, all on one device.
        task: its `example` gives the size of an image; its `test` images are judged on where `images` is None.
        images: others to judge on. If they have no labels the accuracy is NaN.
        latency_batch: images in one timed pass.
        latency_rounds, threads: as in `latency`.
        progress: called through the judging, then through the rounds of timing.

    Returns:
        A row a network (index: name): accuracy and agreement with the reference in [0, 1], params, macs (of one image)
        and the columns of `latency`: median_ms, spread_ms, ratio, low, high, verdict; also its `attrs["measured"]`.
    """
    one_device("compare", models)
    images = task.test if images is None else images
    _check_set("compare", images)
    reference = "teacher" if "teacher" in models else next(iter(models))
    tops = dict(zip(models, _top("compare", list(models.values()), images, 1, batch_size, progress), strict=True))
    rows = {}
    for name, top in tops.items():
        right = math.nan if images.labels is None else _share(top == images.labels.cpu()[:, None])
        rows[name] = {
            "accuracy": right, "agreement": _share(top == tops[reference]), **cost(models[name], task.example)._asdict()
        }
    timed = latency(
        {reference: models[reference]} | models,
        task.example.repeat(latency_batch, 1, 1, 1),
        rounds=latency_rounds,
        threads=threads,
        progress=progress,
    )
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("name").join(timed)
    table.attrs = timed.attrs
    return table


def _top(
    who: str, models: list[nn.Module], images: Images, k: int, batch_size: int, progress: Progress | None
) -> list[Tensor]:
    """The k classes that each network scores highest: [(N, k) int64 on the CPU, ...].

    One pass over the images serves all networks, since to fetch them may mean to decode files.
    """
    tops = [[] for _ in models]
    steps = track(math.ceil(len(images) / batch_size), progress)
    with evaluating(*models), torch.no_grad():
        for _, (batch, labels) in zip(steps, images.batches(batch_size), strict=False):
            check_images(batch)
            if not tops[0]:
                check_fits(batch, *models)
            outputs = [model(batch.to(device_of(model))) for model in models]      # (n, classes) each
            for output in outputs:
                _check_output(who, output, len(batch), labels, k)
            if len({output.shape[1] for output in outputs}) > 1:
                raise ValueError(
                    f"{who}: the networks tell apart {' and '.join(str(o.shape[1]) for o in outputs)} classes.\n"
                    f"  Answers can be compared only where the classes are the same: take networks of one task."
                )
            for top, output in zip(tops, outputs, strict=True):
                top.append(output.topk(k).indices.cpu())
    return [torch.cat(top) for top in tops]


def _share(hits: Tensor) -> float:
    """Share of rows with a hit: (N, k) -> [0, 1]."""
    return int(hits.any(1).sum()) / len(hits)


def _check_set(who: str, images: Images) -> None:
    if not isinstance(images, Images):
        raise TypeError(
            f"{who}: asked for images with their labels, got {type(images).__name__}.\n"
            f"  Pass task.test, or few = task.sample(50) itself: neither few.images nor the task."
        )
    if len(images) == 0:
        raise ValueError(f"{who}: there are no images to judge on.\n  Pass at least one, as task.test does.")


def _check_output(who: str, output: Tensor, n: int, labels: Tensor | None, k: int) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != n:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"{who}: the network's output for {n} images is {found}; asked for ({n}, classes).\n"
            f"  Wrap the network so that it returns one score a class for each image."
        )
    classes = output.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"{who}: topk={k}; the network tells apart {classes} classes.\n  Use 1 .. {classes}.")
    if labels is not None and int(labels.max()) >= classes:
        raise ValueError(
            f"{who}: an image has label {int(labels.max())}; the network tells apart the classes 0 .. {classes - 1}.\n"
            f"  Network and images belong to different tasks."
        )
    if output.isnan().any():
        raise ValueError(
            f"{who}: the network's output is NaN for {int(output.isnan().any(1).sum())} of {n} images.\n"
            f"  Look for NaN or infinity in its weights and in BatchNorm's statistics: did its training diverge?"
        )

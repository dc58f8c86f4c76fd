"""Accuracy and agreement, parameters and MACs, and one table with all of it for several networks."""

import math
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fsc.arguments import check_fits, check_images
from fsc.inputs.tasks import Images, Task
from fsc.measure.latency import latency, one_device
from fsc.runtime import Progress, device_of, evaluating, public, quiet, track


class Cost(NamedTuple):
    """Parameters of a network (a shared one counts once), and multiply-accumulates (MACs) for one image."""

    params: int
    macs: int


@public
def accuracy(
    model: nn.Module, images: Images, *,
    topk: int = 1, batch_size: int = 256, progress: Progress | None = None,
) -> float:
    """Share of the images whose label is among the `topk` classes with the highest scores, in [0, 1].

    The network runs on its own device, in eval mode and without gradients.

    Args:
        model: (N, C, H, W) -> (N, classes).
        images: images with labels: `task.test`, or a sample of a task.

    Raises:
        TypeError: `images` is a tensor or a task.
        ValueError: no labels; labels beyond the network's classes; `topk` outside 1 .. classes; NaN scores.

    >>> fsc.accuracy(teacher, task.test)
    0.935
    """
    _check_set(images)
    if images.labels is None:
        remedy = "Take labelled ones (task.test), or fsc.agreement of two networks, which needs no labels."
        raise ValueError(f"these {len(images)} images have no labels.\n  {remedy}")
    (top,) = _top_classes([model], images, topk, batch_size, progress)
    return _share(top == images.labels.cpu()[:, None])


@public
def agreement(
    teacher: nn.Module, model: nn.Module, images: Images, *,
    batch_size: int = 256, progress: Progress | None = None,
) -> float:
    """Share of the images for which both networks predict the same class, in [0, 1]. It needs no labels.

    Raises:
        TypeError: `images` is a tensor or a task.
        ValueError: the networks have different numbers of classes; NaN in an output.

    >>> fsc.agreement(teacher, fsc.fskd(teacher, student, few.images), task.test)
    0.876
    """
    theirs, ours = _top_classes([teacher, model], images, 1, batch_size, progress)
    return _share(theirs == ours)


@public
def cost(model: nn.Module, example: Tensor) -> Cost:
    """Number of parameters, and multiply-accumulates (MACs) of one forward pass on one image.

    MACs are those of convolutions and matrix products: half of what `torch.utils.flop_counter` counts. As is
    usual, a bias, BatchNorm, activations and pooling count as nothing.

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
    """One table of several networks: how good each is, how similar to the reference, how large and how fast.

    The reference is the network named "teacher". If there is none of that name, it is the first network.

    Args:
        models: networks by name, all on one device.
        task: its `example` gives the size of an image. Its `test` images are used where `images` is None.
        images: other images to use. If they have no labels, the accuracy is NaN.
        latency_batch: number of images in one timed pass.
        latency_rounds, threads: as in `latency`.

    Returns:
        One row per network (index: name): accuracy, agreement with the reference, both in [0, 1]; params;
        macs of one image; the columns of `latency`, with its `attrs`.

    >>> fsc.compare({"teacher": teacher, "pruned": student}, task).accuracy
    """
    one_device(models)
    images = task.test if images is None else images
    reference = "teacher" if "teacher" in models else next(iter(models))
    tops = dict(zip(models, _top_classes([*models.values()], images, 1, batch_size, progress), strict=True))
    rows = []
    for name, top in tops.items():
        right = math.nan if images.labels is None else _share(top == images.labels.cpu()[:, None])
        same = _share(top == tops[reference])
        rows.append({"accuracy": right, "agreement": same} | cost(models[name], task.example)._asdict())

    batch = task.example.repeat(latency_batch, 1, 1, 1)
    reference_first = {reference: models[reference]} | models
    timed = latency(reference_first, batch, rounds=latency_rounds, threads=threads, progress=progress)
    table = pd.DataFrame(rows, index=pd.Index(models, name="name")).join(timed)
    table.attrs = timed.attrs
    return table


def predictions(net: nn.Module, images: Images, *, batch_size: int = 256) -> Tensor:
    """The class with the highest score, for each image: (N,) int64, on the CPU. It needs no labels."""
    (top,) = _top_classes([net], images, 1, batch_size, quiet)
    return top[:, 0]


def _top_classes(
    nets: list[nn.Module], images: Images, k: int, batch_size: int, progress: Progress | None
) -> list[Tensor]:
    """The k classes with the highest scores, (N, k) int64 on the CPU, of each network in one pass."""
    _check_set(images)
    tops = [[] for _ in nets]
    steps = track(math.ceil(len(images) / batch_size), progress)
    with evaluating(*nets), torch.no_grad():
        for step, (batch, labels) in zip(steps, images.batches(batch_size), strict=False):
            check_images(batch)
            if step == 0:
                check_fits(batch, *nets)
            outputs = [net(batch.to(device_of(net))) for net in nets]              # (n, classes) each
            _check_outputs(outputs, len(batch), labels, k)
            for top, output in zip(tops, outputs, strict=True):
                top.append(output.topk(k).indices.cpu())
    return [torch.cat(top) for top in tops]


def _share(hits: Tensor) -> float:
    """Share of rows that hold a True: (N, k) -> [0, 1]."""
    return int(hits.any(1).sum()) / len(hits)


def _check_set(images: Images) -> None:
    if not isinstance(images, Images):
        remedy = "Pass task.test, or few = task.sample(50) itself: neither few.images nor the task."
        raise TypeError(f"asked for images with their labels, got {type(images).__name__}.\n  {remedy}")
    if len(images) == 0:
        raise ValueError("there are no images to judge on.\n  Pass at least one, as task.test does.")


def _check_outputs(outputs: list[Tensor], n: int, labels: Tensor | None, k: int) -> None:
    for output in outputs:
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != n:
            found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            asked = f"asked for ({n}, classes).\n  Wrap the network so that it returns one score per class."
            raise ValueError(f"the network's output for {n} images is {found}; {asked}")
        classes = output.shape[1]
        if not 1 <= k <= classes:
            raise ValueError(f"topk={k}; the network tells apart {classes} classes.\n  Use 1 .. {classes}.")
        if labels is not None and int(labels.max()) >= classes:
            beyond = f"an image has label {int(labels.max())}; the network tells apart the classes"
            remedy = "Network and images belong to different tasks."
            raise ValueError(f"{beyond} 0 .. {classes - 1}.\n  {remedy}")
        if bad := int(output.isnan().any(1).sum()):
            remedy = "Look for NaN or infinity in its weights and in BatchNorm's statistics: did it diverge?"
            raise ValueError(f"the network's output is NaN for {bad} of {n} images.\n  {remedy}")
    numbers = [output.shape[1] for output in outputs]
    if len(set(numbers)) > 1:
        remedy = "Predictions can be compared only if the classes are the same: take networks of one task."
        raise ValueError(f"the networks tell apart {' and '.join(map(str, numbers))} classes.\n  {remedy}")

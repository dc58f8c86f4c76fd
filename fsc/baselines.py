"""What everybody would try first, and what few-sample methods must beat: fine-tuning on the few labels."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsc.descent import descend
from fsc.runtime import Progress, check_fits, check_images, device_of, evaluating


def finetune(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int = 2000,
    lr: float = 0.02,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """Train all of a copy of the student on the labelled images by cross-entropy: the BP baseline of the MiR paper.

    SGD with momentum 0.9 and weight decay 1e-4, lr x 0.1 at 40 % and 80 % of the steps, random crops and flips, student
    in train mode. The same seed gives the same result on a CPU.

    Args:
        teacher: says where to train and which classes there are; it teaches nothing here.
        student: left as it is.
        images: (N, C, H, W), normalised.
        labels: (N,), integers in 0 .. classes - 1.
        steps: batches, not epochs.
        progress: called with (done, steps) after each step; what it raises stops the work.

    Returns:
        The trained copy: where the teacher lives, in eval mode, with the student's recipe and `requires_grad`.

    Raises:
        TypeError: labels or images are not tensors of the right kind.
        ValueError: images the networks do not take; labels that do not fit images or classes; teacher and student
            differ in classes; a single image.
        FloatingPointError: training diverged.

    >>> tuned = fsc.finetune(teacher, student, few.images, few.labels, steps=500)
    """
    check_images("finetune", images)
    check_fits("finetune", images, teacher, student)
    device = device_of(teacher)
    trained = copy.deepcopy(student).to(device)
    _check_labels("finetune", labels, len(images), _classes("finetune", teacher, trained, images[:1].to(device)))
    labels = labels.to(device, torch.int64)

    trained.train().requires_grad_(True)
    descend(
        "finetune",
        trained,
        lambda batch, rows: F.cross_entropy(trained(batch), labels[rows]),
        images,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    for mine, theirs in zip(trained.parameters(), student.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return trained.eval()


def _classes(who: str, teacher: nn.Module, student: nn.Module, image: Tensor) -> int:
    with evaluating(teacher, student), torch.no_grad():
        theirs, mine = teacher(image).shape, student(image).shape
    if theirs != mine:
        raise ValueError(
            f"{who}: for one image the teacher's output is {tuple(theirs)}, the student's {tuple(mine)}.\n"
            f"  They tell apart different classes: make the student from this teacher."
        )
    return mine[1]


def _check_labels(who: str, labels: Tensor, n: int, classes: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        found = f"a tensor of {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(
            f"{who}: labels must be a tensor of integers ({n},), got {found}.\n"
            f"  Pass few.labels of few = task.sample({n}). Without labels there is fskd and mir."
        )
    if labels.shape != (n,):
        raise ValueError(
            f"{who}: {n} images and labels of shape {tuple(labels.shape)}; asked for one label an image, ({n},).\n"
            f"  Take both from the same sample: few.images, few.labels."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{who}: labels run from {int(labels.min())} to {int(labels.max())}; the classes are 0 .. {classes - 1}.\n"
            f"  Teacher and images belong to different tasks."
        )

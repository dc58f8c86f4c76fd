"""What everybody would try first, and what few-sample methods must beat: fine-tuning on few labels, distillation."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsc.arguments import check_fits, check_images
from fsc.recover.training import descend
from fsc.runtime import Progress, clone, device_of, evaluating, public


@public
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
    trained, classes = _copy_of("finetune", student, teacher, images)
    _check_labels("finetune", labels, len(images), classes)
    labels = labels.to(device_of(trained), torch.int64)

    def loss_of(batch: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(trained(batch), labels[rows])

    recipe = {"steps": steps, "lr": lr, "batch_size": batch_size, "seed": seed, "progress": progress}
    return _train("finetune", trained, student, loss_of, images, recipe)


@public
def distill(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    *,
    steps: int = 2000,
    lr: float = 0.02,
    batch_size: int = 64,
    temperature: float = 4.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """Train all of a copy of the student to give the teacher's softened class probabilities: the KD baseline.

    Knowledge distillation (Hinton, Vinyals, Dean 2015), section 2, by the soft targets alone: no labels. The loss is
    T^2 KL(teacher || student) between the softmax of both nets' logits over T; T^2 keeps the size of the gradient the
    same at any T. Teacher (in eval mode) and student see the same crops; all else is as in `finetune`.

    Args:
        teacher: left as it is.
        student: left as it is.
        images: (N, C, H, W), normalised.
        steps: batches, not epochs.
        temperature: T; the higher, the more the classes that the teacher finds unlikely count.
        progress: called with (done, steps) after each step; what it raises stops the work.

    Returns:
        The trained copy: where the teacher lives, in eval mode, with the student's recipe and `requires_grad`.

    Raises:
        TypeError: images are not a tensor of floats.
        ValueError: images the networks do not take; teacher and student differ in classes; a temperature that is not
            above 0; a single image.
        FloatingPointError: training diverged.

    >>> tuned = fsc.distill(teacher, student, few.images, steps=500)
    """
    trained, _ = _copy_of("distill", student, teacher, images)
    if not 0 < temperature < float("inf"):
        raise ValueError(
            f"distill: temperature={temperature}; asked for a number above 0.\n"
            f"  It divides the logits: 1 leaves the teacher's probabilities as they are, 4 softens them."
        )
    source = clone(teacher).eval().requires_grad_(False)  # a copy: the teacher's own mode and layout stay as they are

    def loss_of(batch: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = F.log_softmax(source(batch) / temperature, 1)             # (B, classes)
        mine = F.log_softmax(trained(batch) / temperature, 1)                  # (B, classes)
        return F.kl_div(mine, theirs, log_target=True, reduction="batchmean") * temperature**2

    recipe = {"steps": steps, "lr": lr, "batch_size": batch_size, "seed": seed, "progress": progress}
    recipe["beside"] = [source]
    return _train("distill", trained, student, loss_of, images, recipe)


def _copy_of(who: str, student: nn.Module, teacher: nn.Module, images: Tensor) -> tuple[nn.Module, int]:
    """A copy of the student where the teacher lives, and in how many classes both sort these images."""
    check_images(images)
    check_fits(images, teacher, student)
    trained = copy.deepcopy(student).to(device_of(teacher))
    return trained, _classes(who, teacher, trained, images[:1].to(device_of(teacher)))


def _train(
    who: str, trained: nn.Module, student: nn.Module, loss_of: Callable, images: Tensor, recipe: dict
) -> nn.Module:
    """Train all of `trained`, and give it back in eval mode with the `requires_grad` of `student`."""
    trained.train().requires_grad_(True)
    descend(who, trained, loss_of, images, **recipe)
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

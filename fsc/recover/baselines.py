"""The baselines that few-sample methods must beat: fine-tuning on few labels, and distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsc.arguments import check_fits, check_images
from fsc.recover.training import Training, descend, mean_loss, split, with_report
from fsc.runtime import Progress, clone, device_of, evaluating, frozen_copy, public


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
    held_out: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """A copy of the student, all of it trained on the labelled images by cross-entropy: BP in the MiR paper.

    SGD is that of `mir`, with its schedule, crops and flips; the student is in train mode.

    Args:
        teacher: gives the device and the classes. Nothing is learned from it.
        student: left as it is.
        images: (N, C, H, W), normalised; or what `task.sample` gives.
        labels: (N,), integers in 0 .. classes - 1.

    The other arguments, the result, its report and the errors are as for `mir`; the edit is "finetune".

    Raises:
        TypeError: labels are not a tensor of integers.
        ValueError: labels that do not fit images or classes; teacher and student that differ in classes.

    >>> tuned = fsc.finetune(teacher, student, few.images, few.labels, steps=500)
    """
    images, trained, classes = _checked(teacher, student, images)
    _check_labels(labels, len(images), classes)
    fitted, unseen = split(images, held_out, seed)
    fitted_labels, unseen_labels = split(labels.to(images.device, torch.int64), held_out, seed)

    def loss_of(batch: Tensor, its_labels: Tensor) -> Tensor:
        return F.cross_entropy(trained(batch), its_labels)

    training = Training(steps, lr, batch_size, seed, progress)
    held_out_loss = mean_loss(loss_of, batch_size, unseen, unseen_labels)
    how = {"labels": fitted_labels, "held_out_loss": held_out_loss, "keep_best": True}
    rows = descend(trained.train(), loss_of, fitted, training, **how)
    return with_report(trained, student, "finetune", training.asked(held_out=float(held_out)), rows)


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
    held_out: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """A copy of the student, all of it trained to give the teacher's softened class probabilities: KD.

    Knowledge distillation (Hinton, Vinyals, Dean 2015), section 2, with the soft targets alone: no labels.
    The loss is T^2 KL(teacher || student) between the softmax of both nets' logits over T. The factor T^2
    keeps the size of the gradient the same at any T. The teacher is in eval mode and sees the same crops as
    the student.

    Args:
        temperature: T. The higher it is, the more the unlikely classes count.

    The other arguments, the result and the errors are as for `mir`; the edit is "distill".

    >>> tuned = fsc.distill(teacher, student, few.images, steps=500)
    """
    images, trained, _ = _checked(teacher, student, images)
    if not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature={temperature}; asked for a number above 0.\n"
            f"  It divides the logits: 1 leaves the teacher's probabilities as they are, 4 softens them."
        )
    source = frozen_copy(teacher)
    fitted, unseen = split(images, held_out, seed)

    def loss_of(batch: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = F.log_softmax(source(batch) / temperature, 1)     # (B, classes)
        mine = F.log_softmax(trained(batch) / temperature, 1)          # (B, classes)
        return F.kl_div(mine, theirs, log_target=True, reduction="batchmean") * temperature**2

    training = Training(steps, lr, batch_size, seed, progress)
    how = {"beside": [source], "held_out_loss": mean_loss(loss_of, batch_size, unseen), "keep_best": True}
    rows = descend(trained.train(), loss_of, fitted, training, **how)
    asked = training.asked(temperature=float(temperature), held_out=float(held_out))
    return with_report(trained, student, "distill", asked, rows)


def _checked(teacher: nn.Module, student: nn.Module, images: Tensor) -> tuple[Tensor, nn.Module, int]:
    """The images and a copy of the student, both on the teacher's device, and the number of classes."""
    device = device_of(teacher)
    images, trained = check_images(images).to(device), clone(student).to(device)
    check_fits(images, teacher, trained)
    with evaluating(teacher, trained), torch.no_grad():
        theirs, mine = teacher(images[:1]).shape, trained(images[:1]).shape
    if theirs != mine:
        raise ValueError(
            f"for one image the teacher's output is {tuple(theirs)}, the student's {tuple(mine)}.\n"
            f"  They tell apart different classes: make the student from this teacher."
        )
    return images, trained, mine[1]


def _check_labels(labels: Tensor, n: int, classes: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        found = f"a tensor of {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(
            f"labels must be a tensor of integers ({n},), got {found}.\n"
            f"  Pass few.labels of few = task.sample({n}). Without labels, use fskd or mir."
        )
    if labels.shape != (n,):
        raise ValueError(
            f"{n} images and labels of shape {tuple(labels.shape)}; asked for one label per image, ({n},).\n"
            f"  Take both from the same sample: few.images, few.labels."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}; the classes are 0 .. {classes - 1}.\n"
            f"  Teacher and images belong to different tasks."
        )

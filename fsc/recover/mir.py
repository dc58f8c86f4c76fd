"""MiR: the student's backbone learns to make the teacher's features; then it gets the teacher's head.

Wang, Liu, Ma, Yong, Chai, Wu: Compressing Models with Few Samples: Mimicking then Replacing, CVPR 2022.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsc.arguments import check_fits, check_images
from fsc.graph.backbone import Backbone, cut_backbone
from fsc.recover.training import Training, descend, mean_squared, renew_norms, split, train_mode, with_report
from fsc.runtime import Progress, clone, device_of, frozen_copy, public


@public
def mir(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    *,
    steps: int = 2000,
    lr: float = 0.02,
    batch_size: int = 64,
    feature: str | None = None,
    bn: str = "train",
    held_out: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """A copy of the student, trained without labels to make the teacher's features, with the teacher's head.

    The loss is the mean squared error, over N, C, H and W, between the features of both nets before global
    average pooling (section 3 of the paper). SGD has momentum 0.9 and weight decay 1e-4; the learning rate
    falls to a tenth at 40 % and at 80 % of the steps. Both nets see the same random crops and flips, the
    student in train mode, the teacher in eval mode. All behind the feature, the head, is the teacher's own.

    Args:
        teacher: left as it is. The work is done on its device.
        student: left as it is. Its feature has the teacher's shape, as after `prune_filters` or
            `drop_blocks`.
        images: (N, C, H, W), normalised; or what `task.sample` gives.
        steps: number of batches, not of epochs.
        batch_size: images per batch. Fewer images than this make one batch of all.
        feature: None: before pooling; "after": after pooling; or the name of a module whose output it is.
        bn: the statistics of BatchNorm. "train" (published): each batch is normalised by its own, and the
            student keeps their running mean. "frozen" (extension): the student's stay unchanged; one image is
            enough. "re-estimated" (extension): as "train", then measured on the fitted images, not augmented.
        held_out: share of the images to leave out of training. The history shows the loss on them.
        seed: of batches, crops and flips, and of which images are held out. On a CPU it decides the result.
        progress: called with (done, steps) after each step. What it raises stops the work.

    Returns:
        The trained copy, on the teacher's device, in eval mode, with the student's `requires_grad` and an
        edit "mir" at the end of its recipe. `fsc.report_of` gives the history, one row per hundredth of the
        steps: step, loss (mean since the row before; train mode, augmented), held_out_loss (eval mode, not
        augmented; only where images are held out), lr, images_per_second. Ctrl-C ends the training early,
        with a warning; the copy then has the weights of the row with the lowest held_out_loss, or loss where
        none is held out.

    Raises:
        TypeError: images are not a tensor of floats; labels in their place.
        ValueError: images that the networks do not take; features or heads that do not match; no such
            feature; one image per batch where BatchNorm would train on it; `held_out` of no image or of all.
        NotTraceable: `torch.fx` cannot follow one of the nets.
        FloatingPointError: training diverged; names step and learning rate.

    >>> student = fsc.mir(teacher, fsc.prune_filters(teacher, 0.5), few.images, steps=2000)
    """
    images = _checked(images).to(device_of(teacher))
    check_fits(images, teacher, student)
    fitted, unseen = split(images, held_out, seed)
    source, trained = frozen_copy(teacher), clone(student).to(images.device).eval()
    theirs, mine = (cut_backbone(net, images[:1], feature) for net in (source, trained))  # images -> feature
    _check_match(theirs, mine, source, trained)

    def loss_of(batch: Tensor) -> Tensor:
        with _in_bfloat16(batch.device):
            with torch.no_grad():
                wanted = theirs.body(batch)                            # (B, C, H, W)
            return F.mse_loss(mine.body(batch), wanted)

    train_mode(mine.body, bn)
    training = Training(steps, lr, batch_size, seed, progress)
    held_out_loss = _squared_error(unseen, theirs.body, mine.body, min(len(fitted), batch_size))
    how = {"beside": [theirs.body], "held_out_loss": held_out_loss, "keep_best": True}
    rows = descend(mine.body, loss_of, fitted, training, **how)
    if bn == "re-estimated":
        renew_norms(mine.body, fitted, batch_size=batch_size)
    _replace_head(trained, source, mine.head_names)                        # bit for bit
    asked = training.asked(feature=feature, bn=bn, held_out=float(held_out))
    return with_report(trained, student, "mir", asked, rows)


def _squared_error(
    images: Tensor, teacher: nn.Module, student: nn.Module, batch_size: int
) -> Callable[[], float] | None:
    """A function that gives the mean squared error of the student's feature; None without images."""
    if not len(images):
        return None
    batches = images.split(batch_size)
    with torch.no_grad():
        wanted = [teacher(batch) for batch in batches]
    return lambda: mean_squared([student(batch) for batch in batches], wanted)


def _in_bfloat16(device: torch.device) -> AbstractContextManager:
    """A context with convolutions in bfloat16 on a GPU that has it; it does nothing elsewhere."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast("cuda", torch.bfloat16) if able else nullcontext()


@torch.no_grad()
def _replace_head(student: nn.Module, teacher: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        student.state_dict()[name].copy_(teacher.state_dict()[name])


def _checked(images: Tensor) -> Tensor:
    if isinstance(images, Tensor) and images.ndim == 1 and not images.is_floating_point():
        raise TypeError(
            f"images are a tensor of integers ({len(images)},); they look like labels, and mir needs none.\n"
            f"  Pass few.images of few = task.sample({len(images)})."
        )
    return check_images(images)


def _check_match(theirs: Backbone, mine: Backbone, teacher: nn.Module, student: nn.Module) -> None:
    if not any(p.is_floating_point() for p in mine.body.parameters()):
        raise ValueError(
            f"nothing before the feature ({mine.name}) of this {type(student).__name__} has parameters "
            f"to train.\n  Name a module further on: feature=..."
        )
    if theirs.shape != mine.shape:
        raise ValueError(
            f"the teacher's feature is {theirs.name} {theirs.shape}, the student's {mine.name} {mine.shape}."
            f"\n  A student mimics features of the same shape; prune_filters(..., coupled=True) changes them."
            f"\n  Prune without coupled=True, name another feature=, or use distill."
        )
    wanted = {name: teacher.state_dict()[name].shape for name in theirs.head_names}
    found = {name: student.state_dict()[name].shape for name in mine.head_names}
    for name in wanted | found:
        if wanted.get(name) != found.get(name):
            here, there = (tuple(head[name]) if name in head else "none" for head in (found, wanted))
            raise ValueError(
                f"the teacher's head does not fit the student: of {name}, behind the feature ({mine.name}), "
                f"the student has {here}, the teacher {there}.\n"
                f"  The head is taken from the teacher: leave feature out, or name a later module."
            )

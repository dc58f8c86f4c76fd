"""MiR: the student's backbone mimics the teacher's features before pooling; then the teacher's own head reads them."""

import contextlib
import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsc.arguments import check_fits, check_images
from fsc.graph.backbone import Backbone, cut_backbone
from fsc.recover.norms import renew_norms
from fsc.recover.training import descend, learning_norms
from fsc.runtime import Progress, clone, device_of, evaluating, public, warn
from fsc.surgery.recipe import with_edit

BN_MODES = ("train", "frozen", "re-estimated")


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
    """Train a copy of the student to make the teacher's features, without labels; then give it the teacher's head.

    MiR (Wang, Liu, Ma, Yong, Chai, Wu, CVPR 2022): the loss is the mean squared error, over N, C, H and W, between
    the two nets' features before global average pooling. SGD with momentum 0.9 and weight decay 1e-4, lr x 0.1 at 40 %
    and 80 % of the steps; both nets see the same random crops and flips, the student in train mode, the teacher in eval
    mode. What lies behind the feature does not train: in the result it is the teacher's, bit for bit.

    Args:
        teacher: left as it is.
        student: of the same features as the teacher: pruned, factorized, with blocks dropped, recovered by FSKD, ...
            Left as it is.
        images: (N, C, H, W), normalised.
        steps: batches, not epochs. Fewer images than `batch_size` make one batch of all.
        feature: None finds the feature before pooling in any net that `torch.fx` traces; the name of a module mimics
            what this one makes; "after" mimics what comes out of the pooling.
        bn: BatchNorm's statistics while training. "train" (published): those of each batch, and a running mean of them
            stays in the student. "frozen" (extension): the student's own, unchanged; one image is enough.
            "re-estimated" (extension): as "train", and at the end measured anew on the few images, not augmented.
        held_out: share of the images that is not fitted, for the history's second curve; 0.1 keeps a tenth out.
            By default all are fitted, as by every method that this one is compared with.
        seed: of batches, crops and flips, and of which images are held out; on a CPU the result follows from it.
        progress: called with (done, steps) after each step; what it raises stops the work.

    Returns:
        The trained copy: where the teacher lives, in eval mode, with the student's `requires_grad`, and with an edit
        "mir" at the end of its recipe. `fsc.report_of` shows the history in about 100 rows: step, loss (mean since
        the row before; train mode, augmented), held_out_loss (eval mode, not augmented; only where images are held
        out), lr, images_per_second.

    Ctrl-C ends training early, with a warning: what comes back has the weights of the row with the lowest held-out loss
    so far (where nothing is held out, with the lowest loss).

    Raises:
        TypeError: images are not a tensor of floats; labels in their place.
        ValueError: images the networks do not take; features or heads of teacher and student that do not go together;
            no feature, or none of this name; one image, where BatchNorm would train on it.
        NotTraceable: `torch.fx` cannot follow one of the nets.
        FloatingPointError: training diverged; names step and learning rate.

    >>> student = fsc.mir(teacher, fsc.prune_filters(teacher, 0.5), few.images, steps=2000)
    """
    _check_asked(images, bn, held_out)
    check_fits(images, teacher, student)
    device, example = device_of(teacher), images[:1].to(device_of(teacher))
    source = clone(teacher).eval().requires_grad_(False)  # a copy: the teacher's own mode and layout stay as they are
    trained = clone(student).to(device).eval().requires_grad_(False)
    theirs, mine = cut_backbone(source, example, feature), cut_backbone(trained, example, feature)
    _check_match(theirs, mine, source, trained)

    for parameter in mine.body.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    mine.body.train()
    if bn == "frozen":
        for name in learning_norms(mine.body):
            mine.body.get_submodule(name).eval()
    fitted, kept_out = _split(images, held_out, seed)
    if learning_norms(mine.body) and min(len(fitted), batch_size) == 1:
        raise ValueError(
            f"mir: with batches of one image, BatchNorm ({learning_norms(mine.body)[0]}) would learn to normalise each "
            f'image by itself alone.\n  Asked for bn="{bn}", batch_size={batch_size}; {len(fitted)} of {len(images)} '
            f'images to fit.\n  Use bn="frozen", which leaves its statistics as they are, or at least 2 images a batch.'
        )

    def loss_of(batch: Tensor, rows: Tensor) -> Tensor:
        with _mixed_precision(device):
            with torch.no_grad():
                wanted = theirs.body(batch)                            # (B, C, H, W)
            found = mine.body(batch)                                   # (B, C, H, W)
        return F.mse_loss(*map(_at_least_float32, (found, wanted)))

    history = _History(theirs.body, mine.body, kept_out.to(device), steps, min(len(fitted), batch_size))
    try:
        descend(
            "mir",
            mine.body,
            loss_of,
            fitted,
            beside=[theirs.body],
            after_step=history.after_step,
            steps=steps,
            lr=lr,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    except KeyboardInterrupt:
        history.restore_best()
        warn(
            f"mir: stopped after {history.done} of {steps} steps; this is the student of step {history.best_step}, "
            f"the best so far."
        )
    if bn == "re-estimated":
        renew_norms(mine.body, fitted, batch_size=batch_size)
    _replace_head(trained, source, mine.head_names)
    for parameter, before in zip(trained.parameters(), student.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)
    asked = {"steps": int(steps), "lr": float(lr), "batch_size": int(batch_size), "feature": feature, "bn": bn}
    asked |= {"held_out": float(held_out), "seed": int(seed)}
    edit = {"edit": "mir", "asked": asked, "slices": {}, "report": history.rows}
    return with_edit(trained.eval(), student, edit)


class _History:
    """A row about every hundredth of the steps, and the weights of the best row."""

    def __init__(self, teacher: nn.Module, student: nn.Module, kept_out: Tensor, steps: int, batch_size: int):
        self.rows: list[dict[str, float | int]] = []
        self.done = self.best_step = 0
        self._student, self._steps, self._every, self._batch_size = student, steps, max(1, steps // 100), batch_size
        self._kept_out = kept_out.split(batch_size) if len(kept_out) else ()
        with torch.no_grad():
            self._wanted = [teacher(batch) for batch in self._kept_out]
        self._best, self._best_loss = self._weights(), math.inf
        self._losses: list[Tensor] = []
        self._since = time.perf_counter()

    def after_step(self, done: int, loss: Tensor, lr: float) -> None:
        self.done = done
        self._losses.append(loss)
        if done != 1 and done % self._every and done != self._steps:
            return
        fitted = float(torch.stack(self._losses).mean())               # on a GPU this waits until all is computed
        seconds = max(time.perf_counter() - self._since, 1e-9)
        seen = {"held_out_loss": self._held_out_loss()} if self._kept_out else {}
        speed = self._batch_size * len(self._losses) / seconds
        self.rows.append({"step": done, "loss": fitted, **seen, "lr": lr, "images_per_second": speed})
        judged = seen.get("held_out_loss", fitted)
        if judged < self._best_loss:
            self._best, self._best_loss, self.best_step = self._weights(), judged, done
        self._losses, self._since = [], time.perf_counter()

    def restore_best(self) -> None:
        self._student.load_state_dict(self._best)

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._student.state_dict().items()}

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        with evaluating(self._student):
            found = [self._student(batch) for batch in self._kept_out]
        pairs = list(zip(found, self._wanted, strict=True))
        return float(sum((a - b).double().square().sum() for a, b in pairs)) / sum(a.numel() for a in found)


def _split(images: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """The images to fit, in their order, and those held out, drawn by the seed."""
    n = len(images)
    count = max(1, round(held_out * n)) if held_out else 0
    if count == n:
        raise ValueError(f"mir: held_out={held_out} leaves none of {n} images to fit.\n  Hold out fewer, or none.")
    out = torch.zeros(n, dtype=torch.bool)
    out[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count]] = True
    out = out.to(images.device)
    return images[~out], images[out]


def _mixed_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Convolutions in bfloat16 on a GPU that has it; everything else stays as it is."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def _replace_head(trained: nn.Module, teacher: nn.Module, names: tuple[str, ...]) -> None:
    mine, theirs = trained.state_dict(), teacher.state_dict()
    for name in names:
        mine[name].copy_(theirs[name])


def _check_asked(images: Tensor, bn: str, held_out: float) -> None:
    if isinstance(images, Tensor) and images.ndim == 1 and not images.is_floating_point():
        raise TypeError(
            f"mir: images are a tensor of integers ({len(images)},); they look like labels, and mir needs none.\n"
            f"  Pass few.images of few = task.sample({len(images)})."
        )
    check_images(images)
    if bn not in BN_MODES:
        raise ValueError(f'mir: bn="{bn}"; there are "train", "frozen" and "re-estimated".\n  Published is "train".')
    if not 0 <= held_out < 1:
        raise ValueError(f"mir: held_out={held_out} is no share in [0, 1).\n  0.1 keeps a tenth of the images out.")


def _check_match(theirs: Backbone, mine: Backbone, teacher: nn.Module, student: nn.Module) -> None:
    if not any(p.is_floating_point() for p in mine.body.parameters()):
        raise ValueError(
            f"mir: nothing before the feature ({mine.name}) of this {type(student).__name__} has parameters to train.\n"
            f"  Name a module further on: feature=..."
        )
    if theirs.shape != mine.shape:
        raise ValueError(
            f"mir: the teacher's feature is {theirs.name} {theirs.shape}, the student's {mine.name} {mine.shape}.\n"
            f"  A student mimics features of the same shape: one of prune_filters(..., coupled=True) has given up some "
            f"of their channels.\n"
            f"  Prune without coupled=True, name another feature=, or use distill, which compares outputs alone."
        )
    wanted = {name: teacher.state_dict()[name].shape for name in theirs.head_names}
    found = {name: student.state_dict()[name].shape for name in mine.head_names}
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            here, there = (tuple(head[name]) if name in head else "none" for head in (found, wanted))
            raise ValueError(
                f"mir: the teacher's head does not fit the student: of {name}, behind the feature ({mine.name}), the "
                f"student has {here}, the teacher {there}.\n"
                f"  What lies behind the feature is taken from the teacher: leave feature out, or name a later module."
            )

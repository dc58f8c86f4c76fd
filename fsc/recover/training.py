"""Training on a few images: one SGD loop for MiR, fine-tuning, distillation and adaptors."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from fsc.runtime import (
    Progress,
    device_of,
    evaluating,
    generator,
    own_randomness,
    same_requires_grad,
    track,
    warn,
)
from fsc.surgery.recipe import with_edit


@dataclass(frozen=True)
class Training:
    """Settings of SGD, with the defaults of the MiR paper; `steps` counts batches, not epochs."""

    steps: int = 2000
    lr: float = 0.02
    batch_size: int = 64
    seed: int = 0
    progress: Progress | None = None

    def asked(self, **more: Any) -> dict[str, Any]:
        """The settings as plain numbers, for the edit of a recipe."""
        sgd = {"steps": int(self.steps), "lr": float(self.lr), "batch_size": int(self.batch_size)}
        return sgd | more | {"seed": int(self.seed)}


def with_report(
    recovered: nn.Module, student: nn.Module, edit: str, asked: dict[str, Any], rows: list[dict[str, Any]]
) -> nn.Module:
    """The recovered copy of `student`, with the student's `requires_grad`, a recipe and the report."""
    same_requires_grad(recovered, student)
    return with_edit(recovered.eval(), student, {"edit": edit, "asked": asked, "slices": {}, "report": rows})


def descend(
    model: nn.Module,
    loss_of: Callable[..., Tensor],
    images: Tensor,
    training: Training,
    *,
    beside: Sequence[nn.Module] = (),
    labels: Tensor | None = None,
    held_out_loss: Callable[[], float] | None = None,
    keep_best: bool = False,
) -> list[dict[str, float]]:
    """Train `model` in place by SGD, as the MiR paper does, and return the history.

    SGD has momentum 0.9 and weight decay 1e-4; the learning rate falls to a tenth at 40 % and 80 % of the
    steps. Every batch is cropped and flipped at random. Each module stays in its mode, train or eval. The
    seed alone decides the result: torch's global generators, for dropout, are seeded and restored.

    Args:
        loss_of: images (B, C, H, W) -> the loss, a scalar; with `labels`, (images, their labels) -> the loss.
        images: (N, C, H, W), already checked. They are moved to the model's device, as are `labels` (N,).
        beside: other networks that read the batches, such as the teacher; they share the memory format.
        held_out_loss: called once per row, with the model in eval mode; see `mean_loss`.
        keep_best: Ctrl-C gives the model the weights of the best row, with a warning, and is not raised.

    Returns:
        About 100 rows: step, loss (mean since the row before), held_out_loss, lr, images_per_second.
    """
    _check(model, len(images), training)
    device = device_of(model)
    rng = generator(training.seed)
    positions = _positions(len(images), training.batch_size, rng)
    data = [tensor.to(device) for tensor in (images, labels) if tensor is not None]
    optimizer, schedule = _sgd(model, training)
    history = _History(model, training.steps, held_out_loss, keep_best)
    seeded, nhwc = own_randomness(device, training.seed), _nhwc(data[0], model, *beside)
    with history.until_ctrl_c(), torch.enable_grad(), seeded, nhwc as layout:
        for step, chosen in zip(track(training.steps, training.progress), positions, strict=False):
            batch, *its_labels = [tensor[chosen.to(device)] for tensor in data]      # (B, C, H, W); (B,)
            batch = crop_and_flip(batch, rng).contiguous(memory_format=layout)
            loss, lr = loss_of(batch, *its_labels), schedule.get_last_lr()[0]
            _check_finite(loss, step, lr, training)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            history.add(step + 1, loss.detach(), lr, len(batch))
        _check_end(optimizer, training)
    return history.rows


def _sgd(model: nn.Module, training: Training) -> tuple[torch.optim.SGD, LambdaLR]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, training.lr, momentum=0.9, weight_decay=1e-4)
    steps = training.steps
    # MultiStepLR would multiply by 0.1 twice, which rounds differently.
    return optimizer, LambdaLR(optimizer, lambda step: 0.1 ** ((step >= 0.4 * steps) + (step >= 0.8 * steps)))


def _positions(n: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Positions of the images of each batch, without end: shuffled epochs without their short last batch."""
    while True:
        for chosen in torch.randperm(n, generator=rng).split(batch_size):
            if len(chosen) == min(n, batch_size):
                yield chosen


class _History:
    """One row per hundredth of the steps, and the weights of the row with the lowest (held-out) loss."""

    def __init__(
        self, model: nn.Module, steps: int, held_out_loss: Callable[[], float] | None, keep_best: bool
    ):
        self.rows: list[dict[str, float]] = []
        self._model, self._steps, self._held_out_loss = model, steps, held_out_loss
        self._keep_best, self._step, self._losses, self._since = keep_best, 0, [], time.perf_counter()
        self._set_best(math.inf)

    def add(self, step: int, loss: Tensor, lr: float, batch_size: int) -> None:
        self._step = step
        self._losses.append(loss)
        if step not in (1, self._steps) and step % max(1, self._steps // 100):
            return
        row = {"step": step, "loss": float(torch.stack(self._losses).mean())}    # waits for the GPU
        seconds = max(time.perf_counter() - self._since, 1e-9)
        if self._held_out_loss is not None:
            with evaluating(self._model), torch.no_grad():
                row["held_out_loss"] = self._held_out_loss()
        judged = row.get("held_out_loss", row["loss"])
        self.rows.append(row | {"lr": lr, "images_per_second": batch_size * len(self._losses) / seconds})
        if self._keep_best and judged < self._best_loss:
            self._set_best(judged)
        self._losses, self._since = [], time.perf_counter()

    @contextlib.contextmanager
    def until_ctrl_c(self) -> Iterator[None]:
        """At Ctrl-C, end the training with the best weights if they were kept; drop the gradients."""
        try:
            yield
        except KeyboardInterrupt:
            if not self._keep_best:
                raise
            self._model.load_state_dict(self._best)
            done = f"{self._step} of {self._steps} steps"
            warn(f"stopped after {done}; this is the student of step {self._best_step}, the best so far.")
        finally:
            self._model.zero_grad(set_to_none=True)

    def _set_best(self, loss: float) -> None:
        self._best_loss, self._best_step = loss, self._step
        state = self._model.state_dict() if self._keep_best else {}
        self._best = {name: tensor.detach().clone() for name, tensor in state.items()}


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images (N, C, H, W), each padded with zeros by an eighth of its side, cropped back, and flipped.

    The place of the crop is random for each image; half of them are flipped left to right. The generator is
    on the CPU, so the same state gives the same crops on every device.
    """
    n, _, h, w = images.shape
    pad_y, pad_x = h // 8, w // 8
    dy = torch.randint(2 * pad_y + 1, (n,), generator=generator)
    dx = torch.randint(2 * pad_x + 1, (n,), generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    rows = (dy[:, None] + torch.arange(h)).to(images.device)           # (N, H)
    cols = dx[:, None] + torch.arange(w)                               # (N, W)
    cols = torch.where(flip[:, None], cols.flip(1), cols).to(images.device)
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    image = torch.arange(n, device=images.device)[:, None, None]
    # Advanced indexing puts the channel axis last: (N, H, W, C).
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def split(images: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """The images to fit, and round(held_out * N) held-out ones that the seed draws; both keep their order."""
    n = len(images)
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out} is no share in [0, 1).\n  0.1 holds out a tenth of them.")
    count = round(held_out * n)
    if held_out and count in (0, n):
        found = f"leaves none of {n} images to fit" if count else f"holds out none of {n} images"
        works = f"shares from 1/{n} to {n - 1}/{n} work" if n > 1 else "no share of one image works"
        raise ValueError(f"held_out={held_out} {found}.\n  Here {works}; held_out=0 fits all images.")
    drawn = torch.randperm(n, generator=generator(seed))
    fitted, out = drawn[count:].sort().values, drawn[:count].sort().values
    return images[fitted.to(images.device)], images[out.to(images.device)]


def mean_loss(loss_of: Callable[..., Tensor], batch_size: int, *data: Tensor) -> Callable[[], float] | None:
    """A function for `descend`: the mean of `loss_of` over images (and labels). None if there are none."""

    def mean() -> float:
        batches = zip(*(tensor.split(batch_size) for tensor in data), strict=True)
        return sum(float(loss_of(*batch)) * len(batch[0]) for batch in batches) / len(data[0])

    return mean if len(data[0]) else None


def mean_squared(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The mean of the squared differences over all of N, C, H and W; NaN if there are no tensors."""
    errors = [(a - b).double().square().sum() for a, b in zip(found, wanted, strict=True)]
    return float(sum(errors)) / sum(a.numel() for a in wanted) if errors else math.nan


def train_mode(net: nn.Module, bn: str) -> None:
    """Put `net` in train mode; bn="frozen" leaves its BatchNorms in eval mode, with their statistics."""
    if bn not in ("train", "frozen", "re-estimated"):
        raise ValueError(f'bn="{bn}"; there are "train", "frozen" and "re-estimated".\n  Published: "train".')
    net.train()
    if bn == "frozen":
        for name in learning_norms(net):
            net.get_submodule(name).eval()


@torch.no_grad()
def renew_norms(net: nn.Module, images: Tensor, *, batch_size: int) -> None:
    """Measure the running statistics of every BatchNorm again, in place, and leave the net in eval mode.

    They become the mean of those of the batches; each has at least `batch_size` of the images (N, C, H, W),
    or all. `torch.optim.swa_utils.update_bn` does the same, but puts dropout in train mode, too.
    """
    net.eval()
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = {norm: norm.momentum for norm in norms}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # for torch this means: the plain mean over all batches
        norm.train()
    for batch in images.tensor_split(max(1, len(images) // batch_size)):
        net(batch.to(device_of(net)))
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    net.eval()


def learning_norms(net: nn.Module) -> list[str]:
    """Names of the BatchNorms in train mode: they normalise by the batch and update their statistics."""
    return [name for name, m in net.named_modules() if m.training and isinstance(m, _BatchNorm)]


def _check(model: nn.Module, n: int, training: Training) -> None:
    steps, batch_size, lr = training.steps, training.batch_size, training.lr
    if steps < 1 or batch_size < 1 or not lr > 0:
        raise ValueError(
            f"steps={steps}, batch_size={batch_size}, lr={lr}; asked for steps and batch_size >= 1, lr > 0.\n"
            f"  The paper's are steps=2000, batch_size=64, lr=0.02."
        )
    norms = learning_norms(model)
    if norms and min(n, batch_size) == 1:
        raise ValueError(
            f"batches of one image (of {n}) cannot train BatchNorm ({norms[0]}).\n"
            f"  It would learn to normalise each image by itself alone, which it does not do in eval mode.\n"
            f"  Found {n} images to fit and batch_size={batch_size}. Use at least 2 images, in batches of at "
            f'least 2; or mir with bn="frozen", which leaves those statistics as they are.'
        )


def _check_end(optimizer: torch.optim.SGD, training: Training) -> None:
    """Refuse weights that the last step made infinite, or so large that their squares are."""
    if not all(weight.square().sum().isfinite() for weight in optimizer.param_groups[0]["params"]):
        raise FloatingPointError(
            f"the weights are no longer finite after step {training.steps} of {training.steps}.\n"
            f"  Training has diverged: use a smaller lr than {training.lr:.4g}. "
            f"The student passed in is unchanged."
        )


def _check_finite(loss: Tensor, step: int, lr: float, training: Training) -> None:
    if not loss.isfinite():
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {step} of {training.steps} (lr={lr:.4g}).\n"
            f"  Training has diverged: use a smaller lr than {training.lr:.4g}. "
            f"The student passed in is unchanged."
        )


@contextlib.contextmanager
def _nhwc(images: Tensor, *models: nn.Module) -> Iterator[torch.memory_format]:
    """Use the memory format NHWC, in which a CPU trains 1.3 to 1.5 times as fast; NCHW again afterwards."""
    nets, layout = nn.ModuleList(models), torch.channels_last
    try:
        with evaluating(nets), torch.no_grad():
            for net in nets.to(memory_format=layout):
                net(images[:2].contiguous(memory_format=layout))
    except RuntimeError:  # a net that flattens by `view` needs NCHW
        layout = torch.contiguous_format
        nets.to(memory_format=layout)
    try:
        yield layout
    finally:
        nets.to(memory_format=torch.contiguous_format)

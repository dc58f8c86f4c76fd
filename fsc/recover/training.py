"""Gradient descent on a few images, as all methods with a training loop share it: only the loss differs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from fsc.recover.augment import crop_and_flip
from fsc.runtime import Progress, device_of, evaluating, track

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4


def descend(
    who: str,
    model: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    *,
    beside: Sequence[nn.Module] = (),
    after_step: Callable[[int, Tensor, float], None] | None = None,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    progress: Progress | None,
) -> None:
    """Train `model` in place, in whatever mode its modules are, with the recipe of the MiR paper.

    SGD with momentum 0.9 and weight decay 1e-4; the learning rate falls to a tenth at 40 % and again at 80 % of the
    steps; every batch is cropped and flipped anew. Where `progress` or Ctrl-C stops it, `model` keeps what is done.
    The seed alone decides: dropout, too, draws from torch's global generators only after they were seeded with it, and
    they are given back as they were.

    Args:
        who: the public function, for errors and the progress bar.
        loss_of: (images (B, C, H, W), their positions (B,) among all images) -> the loss, a scalar.
        images: (N, C, H, W), checked. They move to where the model lives.
        beside: what else reads the batches, such as the teacher: it gets the model's memory format for that time.
        after_step: called with (steps done, the loss that this step went down from, its learning rate).

    Raises:
        ValueError: steps, lr or batch_size that cannot be; a batch of one image under BatchNorm in train mode.
        FloatingPointError: the loss is no longer finite.
    """
    _check_recipe(who, model, len(images), steps, lr, batch_size)
    device = device_of(model)
    images = images.to(device)
    rng = torch.Generator().manual_seed(seed)
    batches = _positions(len(images), batch_size, rng)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    try:
        with torch.enable_grad(), _own_randomness(device, seed), _layout(images, model, *beside) as layout:
            for step in track(steps, progress):
                now = lr * 0.1 ** ((step >= 0.4 * steps) + (step >= 0.8 * steps))
                for group in optimizer.param_groups:
                    group["lr"] = now
                rows = next(batches).to(device)                            # (B,)
                batch = crop_and_flip(images[rows], rng).contiguous(memory_format=layout)
                loss = loss_of(batch, rows)
                if not loss.isfinite():
                    raise FloatingPointError(
                        f"{who}: the loss is {loss.item()} at step {step} of {steps} (lr={now:.4g}).\n"
                        f"  Training has diverged: use a smaller lr than {lr:.4g}. The student passed in is unchanged."
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if after_step is not None:
                    after_step(step + 1, loss.detach(), now)
    finally:
        optimizer.zero_grad(set_to_none=True)


def _positions(n: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Endless epochs of shuffled positions; an epoch's short last batch is left out, unless it is the only one."""
    while True:
        for rows in torch.randperm(n, generator=rng).split(batch_size):
            if len(rows) == min(n, batch_size):
                yield rows


@contextlib.contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device`, and give them back as they were."""
    gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if gpu else []):
        torch.default_generator.manual_seed(seed)      # torch.manual_seed would seed every GPU of the machine
        if gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def _layout(images: Tensor, *models: nn.Module) -> Iterator[torch.memory_format]:
    """NHWC while it lasts (1.3 to 1.5 times the images a second on a CPU), the usual NCHW again afterwards."""
    def arrange(layout: torch.memory_format) -> torch.memory_format:
        for model in models:
            model.to(memory_format=layout)
        return layout

    layout = arrange(torch.channels_last)
    try:
        with evaluating(*models), torch.no_grad():
            for model in models:
                model(images[:2].contiguous(memory_format=layout))
    except RuntimeError:  # a net that flattens by `view` counts on NCHW
        layout = arrange(torch.contiguous_format)
    try:
        yield layout
    finally:
        arrange(torch.contiguous_format)


def learning_norms(model: nn.Module) -> list[str]:
    """Every BatchNorm in train mode: it normalises by the batch, and remembers what it saw."""
    return [name for name, m in model.named_modules() if m.training and isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _check_recipe(who: str, model: nn.Module, n: int, steps: int, lr: float, batch_size: int) -> None:
    if steps < 1 or batch_size < 1 or not lr > 0:
        raise ValueError(
            f"{who}: steps={steps}, batch_size={batch_size}, lr={lr}; asked for steps and batch_size >= 1, lr > 0.\n"
            f"  The paper's are steps=2000, batch_size=64, lr=0.02."
        )
    norms = learning_norms(model)
    if norms and min(n, batch_size) == 1:
        raise ValueError(
            f"{who}: batches of one image (of {n}) cannot train BatchNorm ({norms[0]}).\n"
            f"  It would learn to normalise each image by itself alone, which it does not do in eval mode.\n"
            f"  Use at least 2 images, in batches of at least 2."
        )

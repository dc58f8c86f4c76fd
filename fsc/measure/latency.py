"""Time networks side by side, and say whether a difference is more than noise."""

import contextlib
import gc
import math
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fsc.arguments import check_fits, check_images
from fsc.runtime import Progress, device_of, digest_of, evaluating, generator, public, track

CONFIDENCE = 0.95
SAME = 0.02     # copies of one network differ by about this much: their weights lie elsewhere in memory
SLICE_MS = 5.0  # one timing lasts about this long; a shorter one would time caches filled by another network


@public
def latency(
    models: dict[str, nn.Module],
    example: Tensor,
    *,
    rounds: int = 30,
    warmup: int = 3,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Time forward passes of several networks side by side, and say which differences are more than noise.

    Each round times every network once, in a new random order, so that other work of the machine slows all of
    them alike. A network is compared with the first one by the ratio of their times within each round.
    `low` .. `high` is a 95 % interval of the median ratio, for any distribution (it inverts the sign test). A
    network is called faster or slower only where the whole interval is more than 2 % away from 1. Of two
    equal networks, at most one comparison in twenty says that they differ.

    Args:
        models: networks by name, all on one device; the first is the reference.
        example: (N, C, H, W), the batch to run. One image measures the time of one prediction, a large batch
            measures how many images per second are possible.
        rounds: at least 6, the fewest that give a 95 % interval.
        warmup: passes of each network before the first round.
        threads: CPU threads while timing; None leaves torch's own number.
        seed: of the order within the rounds.

    Returns:
        One row per network (index: name): median_ms and spread_ms of one pass of the whole batch (spread:
        half the interquartile range), ratio to the reference (median over the rounds), low, high, verdict.
        `table.attrs["measured"]` says how it was measured: rounds, batch, device, threads.

    Raises:
        ValueError: no networks, networks on different devices, fewer than 6 rounds, no threads.

    >>> fsc.latency({"teacher": teacher, "student": student}, task.example).verdict["student"]
    'faster 1.39x'
    """
    check_images(example)
    device, nets = one_device(models), list(models.values())
    if rounds < 6 or warmup < 0:
        raise ValueError(
            f"rounds={rounds}, warmup={warmup}; asked for at least 6 rounds and a warm-up of at least 0.\n"
            f"  Fewer than 6 rounds cannot give a 95 % interval; 30 are usual."
        )
    batch, order = example.to(device), generator(seed)
    times = np.empty((rounds, len(nets)))                                          # (rounds, models), ms
    with _undisturbed(threads), evaluating(*nets), torch.no_grad():
        used = torch.get_num_threads()
        repeats = [_repeats(net, batch, warmup) for net in nets]
        for r in track(rounds, progress):
            for m in torch.randperm(len(nets), generator=order).tolist():
                times[r, m] = _time(nets[m], batch, repeats[m])

    q1, median, q3 = np.percentile(times, [25, 50, 75], axis=0)
    ratios, rank = np.sort(times / times[:, :1], axis=0), _rank(rounds)            # each column ascending
    ratio, low, high = np.median(ratios, axis=0), ratios[rank - 1], ratios[rounds - rank]
    columns = {"median_ms": median, "spread_ms": (q3 - q1) / 2, "ratio": ratio, "low": low, "high": high}
    table = pd.DataFrame(columns, index=pd.Index(models, name="name"))
    verdicts = [_verdict(row.ratio, row.low, row.high) for row in table.itertuples()]
    table["verdict"] = ["reference", *verdicts[1:]]
    cpu = f"{used} CPU thread{'s' if used > 1 else ''}"
    where = cpu if device.type == "cpu" else torch.cuda.get_device_name(device)
    how = f"{rounds} interleaved rounds, batch of {len(batch)}, {where}, torch {torch.__version__}"
    table.attrs["measured"] = how
    return table


def structure_of(net: nn.Module) -> str:
    """A digest of names, types and shapes of all modules: networks of the same digest take the same time."""
    parts = []
    for name, module in net.named_modules():
        tensors, options = {**module._parameters, **module._buffers}, module.extra_repr()
        if isinstance(module, nn.modules.conv._ConvNd):  # a bias makes no difference that can be measured
            tensors.pop("bias")
            options = options.replace(", bias=False", "")
        shapes = [(key, tuple(t.shape), str(t.dtype)) for key, t in tensors.items() if t is not None]
        parts.append((name, type(module).__name__, options, shapes))
    return digest_of(parts)


def one_device(models: dict[str, nn.Module]) -> torch.device:
    """The one device of all these networks; a ValueError if there is none, or more than one."""
    if not isinstance(models, dict) or not models:
        found = models if models == {} else type(models).__name__
        remedy = 'Pass a dict: {"teacher": teacher, "student": student}.'
        raise ValueError(f"asked for networks by name, got {found}.\n  {remedy}")
    devices = {name: device_of(model) for name, model in models.items()}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        remedy = "Move them to one: model.to(device)."
        raise ValueError(f"the networks are on different devices: {found}.\n  {remedy}")
    return next(iter(devices.values()))


def _repeats(model: nn.Module, batch: Tensor, warmup: int) -> int:
    """Warm the network up, and say how many passes fill one timing."""
    try:
        for _ in range(warmup):
            model(batch)
        once = min(_time(model, batch, 1) for _ in range(3))
    except RuntimeError:
        check_fits(batch, model)
        raise
    return max(1, round(SLICE_MS / max(once, 1e-3)))


def _time(model: nn.Module, batch: Tensor, repeats: int) -> float:
    """Milliseconds of one forward pass: the mean of `repeats` passes in a row."""
    _wait_for(batch.device)
    begin = time.perf_counter()
    for _ in range(repeats):
        model(batch)
    _wait_for(batch.device)
    return (time.perf_counter() - begin) * 1e3 / repeats


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a call to a GPU returns before its work is done


@contextlib.contextmanager
def _undisturbed(threads: int | None) -> Iterator[None]:
    """Set the number of CPU threads and stop the garbage collector; give both back at the end."""
    own, collecting = torch.get_num_threads(), gc.isenabled()
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}.\n  Use 1 or more, or None for torch's own number ({own} here).")
    torch.set_num_threads(threads or own)
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(own)
        if collecting:
            gc.enable()


def _rank(n: int) -> int:
    """The 95 % interval of a median runs from the `rank`-th smallest of n values to the `rank`-th largest."""
    rank, tail = 0, 1 / 2**n                            # P(a fair coin falls heads at most `rank` times in n)
    while 2 * tail <= 1 - CONFIDENCE:
        rank += 1
        tail += math.comb(n, rank) / 2**n
    return rank


def _verdict(ratio: float, low: float, high: float) -> str:
    if high < 1 - SAME:
        return f"faster {1 / ratio:.2f}x"
    if low > 1 + SAME:
        return f"slower {ratio:.2f}x"
    return "no measurable gain"

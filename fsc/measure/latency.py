"""How fast networks are beside each other, and whether a difference is more than noise."""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fsc.arguments import check_fits, check_images
from fsc.runtime import Progress, device_of, evaluating, public, track

CONFIDENCE = 0.95
SAME = 0.02     # copies of one network differ by about this much, by where their weights happen to lie in memory
SLICE_MS = 5.0  # one timing lasts about this long: a shorter one times the caches that the network before left behind


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

    Each round times every network once, in a new random order, so that whatever else the machine does falls on all of
    them alike. A network is compared with the first one by their ratio within each round. `low` .. `high` holds the
    median of these ratios with 95 % confidence, whatever their distribution (order statistics; the sign test turned
    around). A network is called faster or slower only where that whole interval is more than 2 % away from 1: of
    comparisons between equals, at most one in twenty.

    Args:
        models: networks by name, all on one device; the first is the reference.
        example: (N, C, H, W), the batch to run. One image asks how long an answer takes; many, how many a second.
        rounds: at least 6, the fewest that give a 95 % interval.
        warmup: passes of each network before the first round.
        threads: CPU threads while timing; None leaves torch's own number.
        seed: of the order within the rounds.

    Returns:
        A row a network (index: name): median_ms and spread_ms of one pass of the whole batch (spread: half the
        interquartile range), ratio to the reference (median of the paired ratios), low, high, verdict.
        `table.attrs["measured"]` says how: rounds, batch, device, threads.

    Raises:
        ValueError: no networks, networks on different devices, fewer than 6 rounds, no threads.

    >>> fsc.latency({"teacher": teacher, "student": student}, task.example).verdict["student"]
    'faster 1.39x'
    """
    check_images(example)
    device = one_device("latency", models)
    if rounds < 6 or warmup < 0:
        raise ValueError(
            f"latency: rounds={rounds}, warmup={warmup}; asked for at least 6 rounds and a warm-up of at least 0.\n"
            f"  Fewer than 6 rounds cannot give a 95 % interval; 30 are usual."
        )
    batch, order = example.to(device), torch.Generator().manual_seed(seed)
    times = np.empty((rounds, len(models)))                                        # (rounds, models), ms
    with _cpu_threads(threads), _no_garbage_collection(), evaluating(*models.values()), torch.no_grad():
        used = torch.get_num_threads()
        try:
            timings = [_timing(model, batch, warmup) for model in models.values()]
        except RuntimeError:
            check_fits(example, *models.values())
            raise
        for r in track(rounds, progress):
            for m in torch.randperm(len(timings), generator=order).tolist():
                times[r, m] = timings[m]()

    q1, median, q3 = np.percentile(times, [25, 50, 75], axis=0)
    ratios = np.sort(times / times[:, :1], axis=0)                                 # each column ascending
    rank = _rank(rounds)
    ratio, low, high = np.median(ratios, axis=0), ratios[rank - 1], ratios[rounds - rank]
    verdicts = [_verdict(*bounds) for bounds in zip(ratio, low, high, strict=True)]
    table = pd.DataFrame(
        {"median_ms": median, "spread_ms": (q3 - q1) / 2, "ratio": ratio, "low": low, "high": high}
        | {"verdict": ["reference", *verdicts[1:]]},
        index=pd.Index(models, name="name"),
    )
    where = f"{used} CPU thread{'s' * (used > 1)}" if device.type == "cpu" else torch.cuda.get_device_name(device)
    table.attrs["measured"] = f"{rounds} interleaved rounds, batch of {len(batch)}, {where}, torch {torch.__version__}"
    return table


def one_device(who: str, models: dict[str, nn.Module]) -> torch.device:
    """The device of all these networks.

    Raises:
        ValueError: no dict, an empty one, or more than one device.
    """
    if not isinstance(models, dict) or not models:
        raise ValueError(
            f"{who}: asked for networks by name, got {models if models == {} else type(models).__name__}.\n"
            f'  Pass a dict: {{"teacher": teacher, "student": student}}.'
        )
    devices = {name: device_of(model) for name, model in models.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(
            f"{who}: the networks are on different devices: {', '.join(f'{n} on {d}' for n, d in devices.items())}.\n"
            f"  Move them to one: model.to(device)."
        )
    return next(iter(devices.values()))


def _timing(model: nn.Module, batch: Tensor, warmup: int) -> Callable[[], float]:
    """Warm the network up; a function that takes one timing."""
    for _ in range(warmup):
        model(batch)
    once = min(_time(model, batch, 1) for _ in range(3))
    repeats = max(1, round(SLICE_MS / max(once, 1e-3)))
    return lambda: _time(model, batch, repeats)


def _time(model: nn.Module, batch: Tensor, repeats: int) -> float:
    """Milliseconds of one forward pass: the mean of `repeats` passes in a row."""
    if batch.device.type == "cuda":
        with torch.cuda.device(batch.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(repeats):
                model(batch)
            end.record()
            end.synchronize()
        return start.elapsed_time(end) / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        model(batch)
    return (time.perf_counter() - begin) * 1e3 / repeats


@contextlib.contextmanager
def _cpu_threads(threads: int | None) -> Iterator[None]:
    was = torch.get_num_threads()
    if threads is not None and threads < 1:
        raise ValueError(f"latency: threads={threads}.\n  Use 1 or more, or None for torch's own number ({was} here).")
    try:
        torch.set_num_threads(was if threads is None else threads)
        yield
    finally:
        torch.set_num_threads(was)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _rank(n: int) -> int:
    """The 95 % interval of a median runs from the `rank`-th smallest of n values to the `rank`-th largest."""
    rank, tail = 0, 1 / 2**n                               # P(a fair coin falls heads at most `rank` times in n)
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

"""What speaks for dropping each block: its loss by either method, the time that it takes, and both as one score."""

import math
import time
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fsc.compress.blocks import hollow
from fsc.graph.backbone import cut_backbone
from fsc.recover.match import CHUNK
from fsc.recover.recoverability_closed import Candidate, mean_squared, try_all
from fsc.recover.recoverability_sgd import train_around
from fsc.recover.savings import latency_saved
from fsc.runtime import Progress, device_of, evaluating, quiet, track, warn


def evidence(
    who: str,
    source: nn.Module,
    images: Tensor,
    names: list[str],
    gone: list[str],
    saved: pd.DataFrame | None,
    *,
    method: str,
    held_out: float,
    seed: int,
    progress: Progress | None,
    **sgd: Any,
) -> pd.DataFrame:
    """The table of `recoverability`: a row a name, when dropped together with all that are `gone`.

    Args:
        source: the teacher, or a copy, its parameters frozen; training changes its memory format for a while.
        saved: of `savings`, or None for a table without times.
        sgd: steps, lr and batch_size of method "sgd".
    """
    example, device = images[:1].to(device_of(source)), device_of(source)
    fitted, unseen = _split(images, held_out, seed)
    chunks = [chunk.to(device) for part in (fitted, unseen) for chunk in part.split(CHUNK) if len(chunk)]
    body = cut_backbone(source, example).body
    candidates = []
    for name in names:
        net = hollow(source, [*gone, name])
        candidates.append(Candidate(name, [*gone, name], net, cut_backbone(net, example).body))
    count = math.ceil(len(fitted) / CHUNK)
    with torch.no_grad():
        shown = progress if method == "closed" else quiet
        rows = try_all(who, body, candidates, chunks, count, fit=method == "closed", progress=shown)
    if method == "sgd":
        _train_all(who, body, candidates, rows, chunks, count, fitted, seed=seed, **sgd, progress=progress)
    if lost := [name for name, row in zip(names, rows, strict=True) if not row.pop("sites")]:
        warn(
            f"{who}: no conv before or behind can make up for {', '.join(lost)}.\n"
            f"  Their recoverability is what merely dropping them costs."
        )  # fmt: skip
    table = pd.DataFrame(rows, index=pd.Index(names, name="block"))
    table["score"] = table.recoverability
    if saved is not None:
        table = table.join(saved)
        table["score"] /= saved.latency_saved[names] + saved.latency_saved[gone].sum()
        table.attrs |= saved.attrs
    columns = ["dropped_mse", "recoverability", "held_out_recoverability", "latency_saved", "latency_measurable"]
    return table[[name for name in [*columns, "score", "cosine", "seconds"] if name in table]]


def _train_all(
    who: str,
    body: nn.Module,
    candidates: list[Candidate],
    rows: list[dict[str, float]],
    chunks: list[Tensor],
    count: int,
    images: Tensor,
    *,
    steps: int,
    seed: int,
    progress: Progress | None,
    **sgd: Any,
) -> None:
    """Write into each candidate's row what it reaches with trained adaptors."""
    with torch.no_grad():
        wanted = [body(chunk) for chunk in chunks]
    ticks = track(len(candidates) * steps, progress)
    next(ticks)
    for candidate, row in zip(candidates, rows, strict=True):
        begin = time.perf_counter()
        holes = [node for node in candidate.body.graph.nodes if node.target in candidate.dropped]
        net, adaptors = train_around(
            who, body, candidate.body, holes, images, steps=steps, seed=seed, **sgd,
            progress=lambda done, total: next(ticks, None),
        )  # fmt: skip
        with torch.no_grad(), evaluating(net):
            found = [net(chunk) for chunk in chunks]
        row["recoverability"] = mean_squared(found[:count], wanted[:count])
        row["held_out_recoverability"] = mean_squared(found[count:], wanted[count:])
        row["sites"] = len(adaptors)
        row["seconds"] += time.perf_counter() - begin


def savings(
    who: str,
    source: nn.Module,
    names: list[str],
    images: Tensor,
    progress: Progress | None,
    *,
    threads: int | None = None,
) -> pd.DataFrame:
    """The share of time that dropping each block saves; warns of those that are not measurable."""
    dropped = {name: hollow(source, [name]) for name in names}
    saved = latency_saved(source, dropped, images[:1], threads=threads, progress=progress)
    if noise := [name for name in names if not saved.latency_measurable[name]]:
        warn(
            f"{who}: the time that dropping saves is not measurable for {', '.join(noise)}: no more than noise here.\n"
            f"  Neither are their scores; measure where nothing else runs."
        )  # fmt: skip
    return saved


def _split(images: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """The images that are fitted, and those held out, drawn by the seed; one image is fitted."""
    count = min(max(1, round(held_out * len(images))), len(images) - 1) if held_out else 0
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)
    return images[order[count:]], images[order[:count]]

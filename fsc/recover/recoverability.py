"""Recoverability of blocks: how well the rest of the network makes up for each, and the time that it takes.

Wang, Wu: Practical Network Acceleration with Tiny Sets, CVPR 2023.
"""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from fsc.arguments import check_fits, check_images
from fsc.compress.blocks import check_droppable, droppable_blocks, without_blocks
from fsc.graph.backbone import cut_backbone
from fsc.graph.module_regions import regions
from fsc.graph.tracing import trace
from fsc.measure.latency import SAME, latency, structure_of
from fsc.recover.candidate_blocks import Candidate, Trial
from fsc.recover.fskd import CHUNK
from fsc.recover.recoverability_closed import judge_in_closed_form
from fsc.recover.recoverability_sgd import judge_by_sgd
from fsc.recover.training import Training, split
from fsc.runtime import Progress, device_of, frozen_copy, public, warn

FLOOR = 0.001
"""The smallest saving of time that counts. A negative one, which is noise, would make the lowest score."""

COLUMNS = ["dropped_mse", "recoverability", "held_out_recoverability", "latency_saved", "latency_measurable",
           "score", "cosine", "seconds"]


@public
@torch.no_grad()
def recoverability(
    teacher: nn.Module,
    images: Tensor,
    *,
    method: str = "closed",
    blocks: Sequence[str] | None = None,
    dropped: Sequence[str] = (),
    steps: int = 1000,
    lr: float = 0.02,
    batch_size: int = 64,
    held_out: float = 0.2,
    latency: bool = True,
    timed: pd.DataFrame | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """A table with the cost of each block: it is dropped alone, and the rest is brought back to the teacher.

    The loss is MiR's: the mean squared error, over N, C, H and W, of the feature before the global pooling.

    Args:
        teacher: it is not changed; the work is done on its device.
        images: (N, C, H, W), normalised, unlabelled; or a sample of a task.
        method: "closed" (extension): the block before the dropped one absorbs it by least squares, and FSKD's
            sweep goes on behind it. "sgd" (published): 1x1 adaptors stand behind the last convs of the
            stage's earlier blocks, and before the first convs that read the stream behind the dropped block.
            Only they are trained, for each block from the start, and then thrown away; `steps`, `lr` and
            `batch_size` belong to it.
        blocks: names; by default all of `droppable_blocks`.
        dropped: names of blocks that are gone already: every candidate is dropped together with them.
        held_out: share of the images that no fit sees.
        latency: whether to time the networks, one image at a time.
        timed: an earlier table of this teacher, with its latency; then nothing is timed.
        progress: called with (done, total) of each part of the work.

    Returns:
        One row per block (index: block), in the order of execution. dropped_mse: the loss when the block is
        merely dropped. recoverability: the loss after recovery, on the fitted images;
        held_out_recoverability: on the others. latency_saved: share of the teacher's time, at least 0.001;
        latency_measurable: whether it is more than noise. score: recoverability / latency_saved, the lower
        the better to drop; without times, the recoverability. cosine: similarity of the block's input and
        output, mean over the images. seconds: duration of the work.

    Raises:
        ValueError: the network does not take the images; there are no blocks, or some cannot be dropped, with
            the reason; held_out keeps no image, or all of them; `timed` lacks a column or a block.
        NotTraceable: `torch.fx` cannot follow the network.
        FloatingPointError: training with "sgd" diverged.

    Warns of blocks that nothing can make up for, and of blocks whose saving is not measurable.

    >>> fsc.recoverability(teacher, few).sort_values("score").index[:3]
    """
    images = check_images(images)
    names, dropped = check_asked(teacher, images, method, blocks, dropped), list(dropped)
    fitted, unseen = split(images, held_out, seed)
    source = frozen_copy(teacher)
    body = cut_backbone(source, images[:1]).body
    candidates = [Candidate.of(source, name, dropped, images[:1]) for name in names]
    if timed is not None:
        timed = check_timed(timed, [*names, *dropped])
    elif latency:
        timed = latency_saved(source, [*names, *dropped], images[:1], progress=progress)
    parts = [*fitted.split(CHUNK), *unseen.split(CHUNK)]
    chunks = [part.to(device_of(teacher)) for part in parts if len(part)]
    trial = Trial(chunks, math.ceil(len(fitted) / CHUNK), [body(chunk.clone()) for chunk in chunks])
    if method == "closed":
        rows = judge_in_closed_form(body, candidates, trial, progress)
    else:
        rows = judge_by_sgd(body, candidates, trial, fitted, Training(steps, lr, batch_size, seed, progress))
    table = pd.DataFrame(rows, index=pd.Index(names, name="block"))
    if lost := table.index[table.sites == 0].tolist():
        warn(f"no conv before or behind can make up for {', '.join(lost)}: they score as merely dropped.")
    table["score"] = table.recoverability
    if timed is not None:
        table = table.join(timed)
        # The score of the paper, R / tau: tau is the time saved by this block and those dropped already.
        table["score"] /= timed.latency_saved[names] + timed.latency_saved[dropped].sum()
        table.attrs |= timed.attrs
    return table[[name for name in COLUMNS if name in table]]


def latency_saved(
    teacher: nn.Module,
    names: Sequence[str],
    example: Tensor,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The share of the teacher's time that dropping each block saves, and whether it is more than noise.

    All networks are timed in turn, interleaved, as in `fsc.latency`, on `example`, (1, C, H, W). Blocks of
    the same structure that read the same shape share the median of their times. `latency_measurable` is False
    where the 95 % interval of the ratio reaches 1 - 0.02, the difference between copies of one network. No
    saving counts as less than `FLOOR`.
    """
    inside = regions(trace(teacher, example))
    read = [inside[name].reads[0].meta["shape"] for name in names]
    alike = [f"{s} {structure_of(teacher.get_submodule(name))}" for s, name in zip(read, names, strict=True)]
    dropped = {name: without_blocks(teacher, [name]) for name in names}
    timed = latency({"the teacher": teacher, **dropped}, example, threads=threads, progress=progress)
    shared = timed.iloc[1:].groupby(alike)[["ratio", "high"]].transform("median")
    table = pd.DataFrame(
        {"latency_saved": (1 - shared.ratio).clip(lower=FLOOR), "latency_measurable": shared.high < 1 - SAME}
    )
    table.attrs["measured"] = timed.attrs["measured"]
    if noise := table.index[~table.latency_measurable].tolist():
        warn(
            f"the time that dropping saves is not measurable for {', '.join(noise)}: no more than noise.\n"
            f"  Their scores are not measurable either; measure where nothing else runs."
        )
    return table


def check_timed(timed: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The times of these blocks, from an earlier table."""
    columns = ["latency_saved", "latency_measurable"]
    lacking = [name for name in columns if name not in timed]
    lacking = lacking or [name for name in names if name not in timed.index]
    if lacking:
        raise ValueError(
            f"timed has no {', '.join(lacking)}.\n"
            f"  Pass a table of fsc.recoverability, with its latency, for all blocks of this teacher."
        )
    return timed.loc[list(names), columns]


def check_asked(
    teacher: nn.Module,
    images: Tensor,
    method: str,
    blocks: Sequence[str] | None = None,
    dropped: Sequence[str] = (),
) -> list[str]:
    """The names of the blocks to judge, in the order of execution."""
    if method not in ("closed", "sgd"):
        raise ValueError(f'method={method!r}; it is "closed" (least squares) or "sgd" (as published).')
    check_fits(images, teacher)
    if blocks is None:
        blocks = [name for name in droppable_blocks(teacher, example=images[:1]) if name not in dropped]
    if isinstance(blocks, str) or isinstance(dropped, str) or not len(blocks):
        raise ValueError(
            f"blocks={blocks!r}, dropped={dropped!r}; asked for a list of names each.\n"
            f"  Leave blocks out to judge all that can be dropped."
        )
    check_droppable(teacher, trace(teacher, images), [*blocks, *dropped], together=False)
    order = [name for name, _ in teacher.named_modules()]
    return sorted(dict.fromkeys(blocks), key=order.index)

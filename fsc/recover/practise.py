"""PRACTISE: which blocks to drop, by how well what is left makes up for each and how much time it saves.

Wang, Wu: Practical Network Acceleration with Tiny Sets, CVPR 2023. Judging in closed form is an extension.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor, nn

from fsc.arguments import check_fits, check_images
from fsc.compress.blocks import check_droppable, drop_blocks, droppable_blocks
from fsc.graph.tracing import trace
from fsc.recover.fskd import fskd
from fsc.recover.mir import mir
from fsc.recover.recoverability import evidence, savings
from fsc.runtime import Progress, clone, public
from fsc.surgery.recipe import recipe_of, with_edit


@public
def recoverability(
    teacher: nn.Module,
    images: Tensor,
    *,
    method: str = "closed",
    blocks: Sequence[str] | None = None,
    steps: int = 1000,
    lr: float = 0.02,
    batch_size: int = 64,
    held_out: float = 0.2,
    latency: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What each block costs to lose: dropped alone, how near what is left comes to the teacher's feature.

    The loss is MiR's: the mean squared error, over N, C, H and W, of the feature before global average pooling.

    Args:
        teacher: not changed; its device is where the work is done.
        images: (N, C, H, W), normalised, unlabelled.
        method: "closed" (extension): the block before the hole absorbs it by least squares, and FSKD's sweep goes on
            behind it; one pass of the teacher serves all blocks. "sgd" (published): 1x1 adaptors behind the last convs
            of the stage's earlier blocks and before the first convs that read it behind the hole; they alone are
            trained, for each block anew, and thrown away (steps, lr, batch_size are its own).
        blocks: names; all of `droppable_blocks` by default.
        held_out: share of the images that no fit sees.
        latency: time the nets, one image at a time.
        progress: called with (done, in all) of each part of the work.

    Returns:
        A row a block (index: block), in order of execution. dropped_mse: the loss when merely dropped. recoverability:
        when made up for, on the fitted images; held_out_recoverability: on the others. latency_saved: share of the
        teacher's time, at least 0.001; latency_measurable: whether it is more than noise. score: recoverability /
        latency_saved, the lower the better to drop; without `latency`, recoverability. cosine: between what the block
        reads and what it makes, mean over the images. seconds: of the work for this block.

    Raises:
        ValueError: images that the net does not take; no blocks, or some that cannot be dropped, with the reason.
        NotTraceable: `torch.fx` cannot follow the net.
        FloatingPointError: "sgd" diverged.

    Warns of blocks that nothing can make up for, and of those whose saving is not measurable.

    >>> fsc.recoverability(teacher, few.images).sort_values("score").index[:3]
    """
    who = "recoverability"
    names = _checked(who, teacher, images, method, blocks, held_out)
    source = clone(teacher).eval().requires_grad_(False)
    saved = savings(who, source, names, images, progress) if latency else None
    how = {"method": method, "steps": steps, "lr": lr, "batch_size": batch_size, "held_out": held_out, "seed": seed}
    return evidence(who, source, images, names, [], saved, **how, progress=progress)


@public
def practise(
    teacher: nn.Module,
    images: Tensor,
    *,
    blocks: int | None = None,
    latency_reduction: float | None = None,
    method: str = "closed",
    rescore: bool = False,
    recover: str | None = "closed",
    mimic_steps: int = 2000,
    lr: float = 0.02,
    batch_size: int = 64,
    timed: pd.DataFrame | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """Drop the blocks that cost least for the time they take, and recover what is left.

    Published: `method="sgd"`, `recover=None`: the blocks of the lowest scores at once, then MiR.

    Args:
        teacher: not changed; its device is where the work is done. A student goes too: its recipe is continued.
        images: (N, C, H, W), normalised, unlabelled.
        blocks: how many to drop; or
        latency_reduction: the share of the teacher's time to save, inside (0, 1), by the sum of the blocks' savings.
        method: of `recoverability`.
        rescore: judge all that remain again after each drop, together with what is dropped already (extension).
        recover: "closed" runs `fskd` on the dropped net (extension); None does not.
        mimic_steps: of `mir`, with lr and batch_size; 0 leaves it out.
        timed: what dropping each block saves, from a table of `recoverability` for this teacher; None: measured now.
        progress: called with (done, in all) of each part of the work.

    Returns:
        The student, where the teacher lives, in eval mode. `fsc.report_of(it, "practise")` is the evidence: the table
        of `recoverability`, and which were chosen; with `rescore` one for each round.

    Raises:
        ValueError: not one of `blocks` and `latency_reduction`; more than there is, with what can be reached.
        Everything that `recoverability` and `mir` raise.

    >>> student = fsc.practise(teacher, few.images, blocks=3)
    >>> fsc.report_of(student, "practise").query("chosen").block
    """
    who = "practise"
    if recover not in ("closed", None) or mimic_steps < 0:
        raise ValueError(
            f"{who}: recover={recover!r}, mimic_steps={mimic_steps}.\n"
            f'  recover is "closed" or None, mimic_steps at least 0.'
        )
    names = _checked(who, teacher, images, method, None, 0.2)
    _check_wish(blocks, latency_reduction, names)
    source = clone(teacher).eval().requires_grad_(False)
    made = vars(source).pop("fsc_recipe", None)  # of a teacher that is a student itself: to its own it is the teacher
    saved = savings(who, source, names, images, progress) if timed is None else _checked_times(timed, names)
    if latency_reduction is not None:
        _check_reach(latency_reduction, saved)
    how = {"method": method, "steps": 1000, "lr": 0.02, "batch_size": batch_size, "held_out": 0.2, "seed": seed}
    chosen, rows = _choose(who, source, images, names, saved, blocks, latency_reduction, rescore, how, progress)
    student = drop_blocks(source, [name for name in names if name in chosen], example=images[:1])
    asked = {"blocks": blocks, "latency_reduction": latency_reduction, "method": method, "rescore": bool(rescore)}
    asked |= {"recover": recover, "mimic_steps": int(mimic_steps), "seed": int(seed), "images": len(images)}
    with_edit(student, student, {"edit": "practise", "asked": asked, "slices": {}, "report": rows})
    if recover == "closed":
        student = fskd(source, student, images, progress=progress)
    if mimic_steps:
        how = {"steps": mimic_steps, "lr": lr, "batch_size": batch_size, "seed": seed}
        student = mir(source, student, images, **how, progress=progress)
    if made is not None:
        student.fsc_recipe = {"teacher": made["teacher"], "edits": [*made["edits"], *recipe_of(student)]}
    return student


def _choose(
    who: str,
    source: nn.Module,
    images: Tensor,
    names: list[str],
    saved: pd.DataFrame,
    blocks: int | None,
    latency_reduction: float | None,
    rescore: bool,
    how: dict[str, Any],
    progress: Progress | None,
) -> tuple[list[str], list[dict[str, Any]]]:
    """The blocks to drop, the best first, and the rows of the report."""
    chosen: list[str] = []
    rows: list[dict[str, Any]] = []

    def enough() -> bool:
        return len(chosen) >= blocks if blocks else saved.latency_saved[chosen].sum() >= latency_reduction

    while not enough():
        left = [name for name in names if name not in chosen]
        table = evidence(who, source, images, left, chosen, saved, **how, progress=progress)
        ranked = table.sort_values("score", kind="stable").index
        if latency_reduction is not None:  # what cannot be measured adds nothing to the sum
            ranked = [name for name in ranked if saved.latency_measurable[name]]
        first = len(chosen)
        for name in ranked[:1] if rescore else ranked:
            if not enough():
                chosen.append(name)
        found = table.reset_index().assign(chosen=table.index.isin(chosen[first:]))
        rows += [{"round": 1 + first, **row} for row in found.to_dict("records")]
    return chosen, rows


def _checked(
    who: str, teacher: nn.Module, images: Tensor, method: str, blocks: Sequence[str] | None, held_out: float
) -> list[str]:
    """The names of the blocks to judge, in order of execution."""
    check_images(images)
    if method not in ("closed", "sgd"):
        raise ValueError(f'{who}: method={method!r}; it is "closed" (least squares) or "sgd" (as published).')
    if not 0 <= held_out < 1:
        raise ValueError(f"{who}: held_out={held_out} is no share in [0, 1).\n  0.2 keeps a fifth of the images out.")
    check_fits(images, teacher)
    if blocks is None:
        return droppable_blocks(teacher, images[:1])
    if isinstance(blocks, str) or not len(blocks):
        raise ValueError(f"{who}: blocks={blocks!r}; asked for a list of names, or None for all that can be dropped.")
    graph = trace(teacher, images)
    check_droppable(who, teacher, graph, blocks, together=False)
    order = [name for name, _ in teacher.named_modules()]
    return sorted(dict.fromkeys(blocks), key=order.index)


def _check_wish(blocks: int | None, latency_reduction: float | None, names: list[str]) -> None:
    if (blocks is None) == (latency_reduction is None):
        raise ValueError(
            f"practise: blocks={blocks}, latency_reduction={latency_reduction}; asked for one of the two.\n"
            f"  blocks=3 drops three; latency_reduction=0.2 as many as save a fifth of the time."
        )
    if blocks is not None and (isinstance(blocks, bool) or blocks != int(blocks) or not 1 <= blocks <= len(names)):
        raise ValueError(
            f"practise: blocks={blocks}; this net has {len(names)} that can be dropped: {', '.join(names)}.\n"
            f"  Ask for 1 to {len(names)}."
        )
    if latency_reduction is not None and not 0 < latency_reduction < 1:
        raise ValueError(
            f"practise: latency_reduction={latency_reduction} is not inside (0, 1); 0.2 saves a fifth of the time."
        )


def _checked_times(timed: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    columns = ["latency_saved", "latency_measurable"]
    lacking = [name for name in columns if name not in timed] or [name for name in names if name not in timed.index]
    if lacking:
        raise ValueError(
            f"practise: timed has no {', '.join(lacking)}.\n"
            f"  Pass a table of fsc.recoverability, with its latency, for all blocks of this teacher; or leave it out."
        )
    return timed.loc[names, columns]


def _check_reach(latency_reduction: float, saved: pd.DataFrame) -> None:
    real = saved.latency_saved[saved.latency_measurable]
    if real.sum() < latency_reduction:
        raise ValueError(
            f"practise: latency_reduction={latency_reduction} is beyond reach: all {len(real)} blocks whose saving is "
            f"measurable here (of {len(saved)}) save {real.sum():.2f} together.\n"
            f"  Ask for less, or name a number of blocks."
        )

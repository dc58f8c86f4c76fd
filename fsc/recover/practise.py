"""PRACTISE: drop the blocks that are easiest to recover for the time they save, and recover what remains.

Wang, Wu: Practical Network Acceleration with Tiny Sets, CVPR 2023. Judging in closed form is an extension.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor, nn

from fsc.arguments import check_images, renamed
from fsc.compress.blocks import drop_blocks
from fsc.recover.fskd import fskd
from fsc.recover.mir import mir
from fsc.recover.recoverability import check_asked, check_timed, latency_saved, recoverability
from fsc.recover.training import with_report
from fsc.runtime import Progress, frozen_copy, public
from fsc.surgery.recipe import recipe_in_front, set_aside


@renamed(blocks="count")
@public
def practise(
    teacher: nn.Module,
    images: Tensor,
    *,
    count: int | None = None,
    latency_reduction: float | None = None,
    method: str = "closed",
    scoring_steps: int = 1000,
    scoring_lr: float = 0.02,
    held_out: float = 0.2,
    rescore: bool = False,
    recover: str | None = "closed",
    mimic_steps: int = 2000,
    lr: float = 0.02,
    batch_size: int = 64,
    timed: pd.DataFrame | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """A faster student: the teacher without the blocks that cost least for the time they take, recovered.

    Published: `method="sgd"`, `recover=None`. The blocks of the lowest scores go at once; MiR follows.

    Args:
        teacher: it is not changed; the work is done on its device. It may be a student: its recipe is
            continued.
        images: (N, C, H, W), normalised, unlabelled; or a sample of a task.
        count: number of blocks to drop; or
        latency_reduction: the share of the teacher's time to save, inside (0, 1); the blocks' savings add up.
        method, held_out: of `recoverability`; so are scoring_steps and scoring_lr, the steps and lr of "sgd".
        rescore: after each drop, judge again all blocks that remain, together with those dropped (extension).
        recover: "closed" runs `fskd` on the student (extension); None does not.
        mimic_steps: steps of `mir`, with `lr`; 0 leaves it out. `batch_size` serves `mir` and the scoring by
            "sgd".
        timed: the time that dropping each block saves, from a table of `recoverability` for this teacher;
            None: it is measured now.
        progress: called with (done, total) of each part of the work.

    Returns:
        The student, where the teacher lives, in eval mode. `fsc.report_of(it, "practise")` is the evidence:
        the table of `recoverability`, and which blocks were chosen; with `rescore` one table for each round.

    Raises:
        ValueError: not exactly one of `count` and `latency_reduction`; more than there is, with what can be
            reached. Everything that `recoverability` and `mir` raise.

    >>> student = fsc.practise(teacher, few, count=3)
    >>> fsc.report_of(student, "practise").query("chosen").block
    """
    images, source = check_images(images), set_aside(frozen_copy(teacher))
    names = check_asked(source, images, method)
    _check_target(names, count, latency_reduction, recover, mimic_steps)
    if timed is None:
        timed = latency_saved(source, names, images[:1], progress=progress)
    timed = check_timed(timed, names)
    how = {"steps": scoring_steps, "lr": scoring_lr, "batch_size": batch_size, "held_out": held_out}
    how |= {"method": method, "timed": timed, "seed": seed, "progress": progress}
    score = partial(recoverability, source, images, **how)           # R / tau of every block that remains
    chosen, rows = _choose(score, timed, count, latency_reduction, rescore)
    student = drop_blocks(source, [name for name in names if name in chosen], example=images[:1])
    asked = {"count": count, "latency_reduction": latency_reduction, "method": method}
    asked |= {"rescore": bool(rescore), "recover": recover, "mimic_steps": int(mimic_steps)}
    asked |= {"seed": int(seed), "images": len(images)}
    student = with_report(student, student, "practise", asked, rows)
    if recover == "closed":
        student = fskd(source, student, images, progress=progress)
    if mimic_steps:
        sgd = {"steps": mimic_steps, "lr": lr, "batch_size": batch_size, "seed": seed}
        student = mir(source, student, images, **sgd, progress=progress)
    return recipe_in_front(student, teacher)                         # of a teacher that is a student itself


def _choose(
    score: Callable[..., pd.DataFrame],
    timed: pd.DataFrame,
    count: int | None,
    latency_reduction: float | None,
    rescore: bool,
) -> tuple[list[str], list[dict[str, Any]]]:
    """The blocks to drop, the lowest score first, and the rows of the report.

    Args:
        score: `recoverability` of the blocks that remain.
    """
    able = timed.index
    if count is None:  # blocks whose saving is noise would add nothing to the time saved
        able = timed.index[timed.latency_measurable]
        most = timed.latency_saved[able].sum()
        if most < latency_reduction:
            raise ValueError(
                f"latency_reduction={latency_reduction} is beyond reach: all {len(able)} blocks whose saving "
                f"is measurable here (of {len(timed)}) save {most:.2f} together.\n"
                f"  Ask for less, or name a number of blocks."
            )
    chosen: list[str] = []
    rows: list[dict[str, Any]] = []

    def enough() -> bool:
        saved = timed.latency_saved[chosen].sum()
        return saved >= latency_reduction if count is None else len(chosen) >= count

    while not enough():
        table = score(blocks=timed.index.difference(chosen, sort=False), dropped=chosen)
        ranked = table.sort_values("score", kind="stable").index
        first = len(chosen)
        for name in [name for name in ranked if name in able][: 1 if rescore else None]:
            if not enough():
                chosen.append(name)
        judged = table.reset_index().assign(chosen=table.index.isin(chosen[first:]))
        rows += [{"round": 1 + first, **row} for row in judged.to_dict("records")]
    return chosen, rows


def _check_target(
    names: list[str],
    count: int | None,
    latency_reduction: float | None,
    recover: str | None,
    mimic_steps: int,
) -> None:
    if recover not in ("closed", None) or mimic_steps < 0:
        raise ValueError(
            f"recover={recover!r}, mimic_steps={mimic_steps}.\n"
            f'  recover is "closed" or None, mimic_steps at least 0.'
        )
    if (count is None) == (latency_reduction is None):
        raise ValueError(
            f"count={count}, latency_reduction={latency_reduction}; asked for one of the two.\n"
            f"  count=3 drops three blocks; latency_reduction=0.2 as many as save a fifth of the time."
        )
    if count is not None and (isinstance(count, bool) or count not in range(1, len(names) + 1)):
        raise ValueError(
            f"count={count}; this network has {len(names)} blocks that can be dropped: {', '.join(names)}.\n"
            f"  Ask for 1 to {len(names)}."
        )
    if latency_reduction is not None and not 0 < latency_reduction < 1:
        raise ValueError(
            f"latency_reduction={latency_reduction} is not inside (0, 1); 0.2 saves a fifth of the time."
        )

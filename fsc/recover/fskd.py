"""FSKD: fit a 1x1 conv at the end of each block to the teacher's features by least squares, and merge it away.

Li, Li, Liu, Zhang: Few Sample Knowledge Distillation for Efficient Network Compression, CVPR 2020.
"""

import math
import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import pandas as pd
import torch
from torch import Tensor, fx, nn

from fsc.arguments import check_fits, check_images
from fsc.graph.stepwise import Walk
from fsc.graph.tracing import trace
from fsc.recover import lstsq
from fsc.recover.adaptors import train_adaptors
from fsc.recover.match import CHUNK, check_finite, correct, share, sums_at, target
from fsc.recover.sites import Kept, Site, find_sites, merge_at
from fsc.recover.training import Training
from fsc.runtime import Progress, clone, device_of, evaluating, fingerprint, public, quiet, track, warn
from fsc.surgery.recipe import with_edit

FOLDS = 5
"""The few images in so many parts: each part is held out once, and its error is that of a fit on the other parts."""


@public
def fskd(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    *,
    method: str = "closed",
    at: str = "conv",
    intercept: bool = True,
    ridge: float = lstsq.RIDGE,
    shortcuts: bool = True,
    kept: Kept | None = None,
    steps: int = 2000,
    lr: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """A copy of the student, recovered: behind each conv a 1x1 conv fitted to the teacher's features, and merged away.

    One sweep from the first site to the last: both networks go forward side by side, every fit sees features that the
    fits before it have already corrected, and the teacher's untouched ones as its target. No labels; nothing is added:
    parameters and MACs are the student's. BatchNorm behind a fitted conv becomes neutral: its statistics are those of
    the few images, and in eval mode it passes on what it gets.

    Published (section 3 of the paper and the authors' code): `intercept=False`, `ridge=0`, `shortcuts=False`. The
    defaults are extensions, chosen by errors on held-out few images (data/scripts/choose_fskd.py).

    Args:
        teacher: not changed; its device is where the work is done.
        student: of `prune_filters`, `factorize` or `drop_blocks`, or with names like the teacher's; left as it is.
        images: (N, C, H, W), normalised, unlabelled.
        method: "closed", or "sgd": all 1x1 convs at once by gradient descent (the paper's FSKD-SGD; steps, lr,
            batch_size and seed are its own), without intercept, ridge and shortcuts. The lr, too, was chosen so.
        at: "conv", behind every conv (of a factorized one, behind its last), as in the authors' code; or "block",
            behind the last conv of each block, of each factorized conv and of each plain layer, as in the paper's
            abstract.
        intercept: also fit a bias, where BatchNorm or the conv has one to take it up (extension).
        ridge: pull toward the identity, relative to the mean squared feature (extension).
        shortcuts: where a shortcut is added next, fit the sum: the block also mends what the shortcut got wrong
            (extension). So the block before a dropped one makes up for it.
        kept: {"layer1.0.conv1": [0, 2, 5], ...}, the filters that a student without a recipe has kept.
        progress: called with (done, in all) after each fit (each step of "sgd").

    Returns:
        The recovered copy, where the teacher lives, in eval mode. `fsc.report_of(it)` has a row a site: the
        error before and after, relative to the variance of the teacher's feature (with `shortcuts`, of the sum), and
        the held-out error, that of fits to four fifths of the images on the last fifth, each fifth once; a little too
        kind, as the sites before were fitted to all images.

    Raises:
        ValueError: images the networks do not take; teacher and student that do not correspond, by name of the first
            module that differs; NaN in a feature; unknown method or place.
        NotTraceable: `torch.fx` cannot follow one of them.

    Warns of convs without an adaptor, of fewer rows than unknowns, and of a recipe made for another teacher.

    >>> student = fsc.fskd(teacher, fsc.prune_filters(teacher, 0.5), few.images)
    >>> fsc.report_of(student).held_out_error.round(3)
    """
    _check("fskd", teacher, student, images, method, at, ridge)
    recovered = clone(student).to(device_of(teacher))
    asked = {"method": method, "at": at, "images": len(images)}
    with evaluating(teacher, recovered), torch.no_grad():
        graphs = trace(teacher, images), trace(recovered, images)
        sites, without = find_sites(*graphs, recovered, at=at, kept=kept)
        _warn_of_another_teacher(teacher, student, kept)
        if without:
            lines = "\n".join(f"  {name}: {why}." for name, why in without.items())
            warn(f"fskd: no adaptor behind these:\n{lines}")
        if not sites:
            raise ValueError(f"fskd: no conv of this {type(student).__name__} can take an adaptor.")
        if method == "closed":
            asked |= {"intercept": bool(intercept), "ridge": float(ridge), "shortcuts": bool(shortcuts)}
            judge = partial(_fit, ridge=ridge, intercept=intercept)
            rows = _sweep("fskd", graphs, sites, images, judge, progress, net=recovered, shortcuts=shortcuts)
            _warn_of_few_rows(rows, ridge, len(images))
        else:
            sgd = {"steps": steps, "lr": lr, "batch_size": batch_size, "seed": seed}
            asked |= sgd
            trained = iter(train_adaptors(*graphs, sites, images, Training(**sgd, progress=progress)))
            judge = lambda site, folds, total: _given(site, total, next(trained))  # noqa: E731
            rows = _sweep("fskd", graphs, sites, images, judge, quiet, net=recovered)
    for mine, theirs in zip(recovered.parameters(), student.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return with_edit(recovered.eval(), student, {"edit": "fskd", "asked": asked, "slices": {}, "report": rows})


@public
def error_map(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    *,
    at: str = "block",
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> pd.Series:
    """How far the student's features are from the teacher's along the depth: layer -> squared error / variance.

    0 is the teacher itself; 1 is what the mean of the teacher's features would score. A block's feature is what it
    hands on, with its shortcut. Arguments and errors as for `fskd`.
    """
    _check("error_map", teacher, student, images, "closed", at, 0.0)
    with evaluating(teacher, student), torch.no_grad():
        graphs = trace(teacher, images), trace(student, images)
        sites, _ = find_sites(*graphs, student, at=at, kept=kept)
        rows = _sweep("error_map", graphs, sites, images, _look, progress, shortcuts=True)
    return pd.Series({row["layer"]: row["error_before"] for row in rows}, name="error")


Judge = Callable[[Site, list[lstsq.Sums], lstsq.Sums], tuple[lstsq.Fit | None, dict[str, Any]]]
"""(site, sums of each part of the images, of all) -> what to put there, or nothing, and the site's row."""


def _sweep(
    who: str,
    graphs: tuple[fx.GraphModule, fx.GraphModule],
    sites: list[Site],
    images: Tensor,
    judge: Judge,
    progress: Progress | None,
    *,
    net: nn.Module | None = None,
    shortcuts: bool = False,
) -> list[dict[str, Any]]:
    """Walk both graphs from site to site; what `judge` finds is merged into `net`, and the walk goes on behind it."""
    size = max(1, min(CHUNK, math.ceil(len(images) / FOLDS)))
    chunks = [part.to(device_of(graphs[0])) for part in images.split(size)]
    theirs, mine = Walk(graphs[0], chunks), Walk(graphs[1], chunks)
    del chunks
    rows = []
    for i in track(len(sites), progress):
        site = sites[i]
        reads = {target(later, shortcuts) for later in sites[i:]}
        folds: list[lstsq.Sums | None] = [None] * FOLDS
        for c in range(len(mine.values)):
            sums = sums_at(site, theirs, mine, c, reads, shortcuts)
            folds[c % FOLDS] = sums if folds[c % FOLDS] is None else folds[c % FOLDS] + sums
        folds = [sums for sums in folds if sums is not None]
        total = reduce(operator.add, folds)
        check_finite(who, site, total)
        fit, row = judge(site, folds, total)
        rows.append(row)
        if fit is not None:
            merge_at(net, site, fit.q, fit.bias, *total.mean_and_variance(fit))
            correct(site, mine, fit)
    return rows


def _look(site: Site, folds: list[lstsq.Sums], total: lstsq.Sums) -> tuple[None, dict[str, Any]]:
    return None, {"layer": site.name, "error_before": share(float(total.ee), total)}


def _given(site: Site, total: lstsq.Sums, q: Tensor) -> tuple[lstsq.Fit, dict[str, Any]]:
    after = share(lstsq.squared_error(total, q, None), total)
    return lstsq.Fit(q, None), _look(site, [], total)[1] | {"error_after": after}


def _fit(
    site: Site, folds: list[lstsq.Sums], total: lstsq.Sums, *, ridge: float, intercept: bool
) -> tuple[lstsq.Fit | None, dict[str, Any]]:
    """The fit over all images; its row's held-out error is that of fits to all but one part, on that part."""
    how = {"intercept": intercept and site.bias, "groups": site.groups}
    fit = lstsq.solve(total, ridge=ridge, **how)
    rank, condition = lstsq.rank_and_condition(total, **how)
    unseen = math.nan
    if len(folds) > 1:
        unseen = sum(lstsq.squared_error(part, *lstsq.solve(total - part, ridge=ridge, **how)) for part in folds)
    _, row = _look(site, folds, total)
    row |= {
        "error_after": share(lstsq.squared_error(total, *fit), total),
        "held_out_error": share(unseen, total),
        "channels": len(total.x),
        "rank": rank,
        "condition": condition,
        "rows": total.rows,
        "unknowns": len(total.x) // site.groups + how["intercept"],
    }
    row["rows_per_unknown"] = row["rows"] / row["unknowns"]
    return (fit if row["error_before"] > 0 else None), row


def _check(
    who: str, teacher: nn.Module, student: nn.Module, images: Tensor, method: str, at: str, ridge: float
) -> None:
    check_images(images)
    if method not in ("closed", "sgd") or at not in ("block", "conv"):
        raise ValueError(
            f"{who}: asked for method={method!r}, at={at!r}.\n"
            f'  method is "closed" (least squares) or "sgd"; at is "block" (each one\'s end) or "conv" (behind each).'
        )
    if not (isinstance(ridge, int | float) and 0 <= ridge < math.inf):
        raise ValueError(f"{who}: ridge={ridge!r}; asked for a number >= 0, such as 0.01.\n  0 switches it off.")
    check_fits(images, teacher, student)


def _warn_of_another_teacher(teacher: nn.Module, student: nn.Module, kept: Kept | None) -> None:
    recipe = getattr(student, "fsc_recipe", None)
    counts = recipe is not None and kept is None and any(edit.get("slices") for edit in recipe["edits"])
    if counts and recipe["teacher"] != fingerprint(teacher):
        warn(
            "fskd: the student's recipe was made for another teacher (its SHA-256 differs from this one's), so the "
            "filters that it kept may not be the ones that it names.\n"
            "  Pass the very teacher that it was pruned from, before any training of it; or the filters, kept={...}."
        )


def _warn_of_few_rows(rows: list[dict[str, Any]], ridge: float, images: int) -> None:
    few = [row for row in rows if row["rows"] < row["unknowns"]]
    if few:
        worst = max(few, key=lambda row: row["unknowns"] / row["rows"])
        warn(
            f"fskd: fewer rows (pixels of all images) than unknowns at {', '.join(row['layer'] for row in few)}; the "
            f"worst: {worst['rows']} rows for {worst['unknowns']} unknowns.\n  "
            f"About {math.ceil(4 * worst['unknowns'] / worst['rows'] * images)} images would do: four rows an unknown "
            f"(where both are as many, a fit without a ridge is at its worst). "
            + (f"The ridge of {ridge:g} keeps these fits near the identity." if ridge else "Without a ridge these fits "
               "are the ones nearest to the identity; ridge=0.01 guards them against noise.")
        )

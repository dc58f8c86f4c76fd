"""FSKD: fit a 1x1 conv behind each conv to the teacher's features by least squares, and merge it away.

Li, Li, Liu, Zhang: Few Sample Knowledge Distillation for Efficient Network Compression, CVPR 2020.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.arguments import check_fits, check_images
from fsc.graph.stepwise import Stepwise
from fsc.graph.tracing import trace
from fsc.recover import lstsq
from fsc.recover.adaptors import train_adaptors
from fsc.recover.correspondence import Kept
from fsc.recover.sites import Site, find_sites, merge_at
from fsc.recover.training import Training, with_report
from fsc.runtime import Progress, clone, device_of, fingerprint, frozen_copy, public, quiet, track, warn
from fsc.surgery.exactness import NotExact
from fsc.surgery.recipe import recipe_of, teacher_fingerprint

FOLDS = 5
"""Number of parts of the few images. Each part is held out once, to judge a fit to the other parts."""
CHUNK = 50
"""Number of images that pass through a network at a time."""


@public
@torch.no_grad()
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
    """A recovered copy of the student: 1x1 convs are fitted to the teacher's features and merged away.

    One sweep goes from the first site to the last. Both networks go forward side by side. Every fit sees
    features that the fits before it have already corrected; its target is the untouched teacher's feature. No
    labels are used, and nothing is added: the student keeps its parameters and MACs. A BatchNorm behind a
    fitted conv becomes neutral: it takes its statistics from the few images, and in eval mode it passes its
    input on.

    Published (section 3 of the paper and the authors' code): `intercept=False`, `ridge=0`, `shortcuts=False`.
    The defaults are extensions, chosen by errors on held-out few images (data/scripts/choose_fskd.py).

    Args:
        teacher: it is not changed; the work is done on its device.
        student: one of `prune_filters`, `factorize` or `drop_blocks`, or a network with the teacher's module
            names.
        images: (N, C, H, W), normalised, unlabelled; or a sample of a task.
        method: "closed" fits by least squares. "sgd" trains all 1x1 convs at once by gradient descent (the
            paper's FSKD-SGD), without intercept, ridge and shortcuts; `steps`, `lr`, `batch_size` and `seed`
            belong to it.
        at: "conv" puts a 1x1 conv behind every conv (behind the last one of a factorized conv), as the
            authors' code does. "block" puts it behind the last conv of each block, of each factorized conv
            and of each plain layer, as the paper's abstract says.
        intercept: also fit a bias, where a BatchNorm or the conv has one to take it up (extension).
        ridge: strength of a pull toward the identity, relative to the mean squared feature (extension).
        shortcuts: where a shortcut is added next, fit the sum. So the block also corrects the shortcut's
            error, and the block before a dropped one makes up for it (extension).
        kept: {"layer1.0.conv1": [0, 2, 5], ...}, the filters that a student without a recipe has kept.
        progress: called with (done, total) after each fit (each step of "sgd").

    Returns:
        The recovered copy, where the teacher lives, in eval mode. `fsc.report_of(it)` has one row per site:
        the error before and after the fit, relative to the variance of the teacher's feature (with
        `shortcuts`, of the sum); and the held-out error: each fifth of the images is judged by a fit to the
        other four. It is a little too small, because the sites before were fitted to all images. Where two
        sites feed one sum, such as a block's last conv and its downsample conv, the first one's error_after
        is measured before the second fit.

    Raises:
        ValueError: the networks do not take the images; teacher and student do not correspond, with the first
            module that differs; a feature is NaN; the method or place is unknown.
        NotTraceable: `torch.fx` cannot follow one of the networks.

    Warns of convs without an adaptor, of fewer rows than unknowns, and of a recipe made for another teacher.

    >>> student = fsc.fskd(teacher, fsc.prune_filters(teacher, 0.5), few)
    >>> fsc.report_of(student).held_out_error.round(3)
    """
    _check_settings(method, ridge)
    pair = Pair(teacher, student, images, at, kept=kept, shortcuts=shortcuts and method == "closed")
    _check_pair(pair, teacher, student, kept)
    if method == "sgd":
        return _fskd_sgd(pair, student, Training(steps, lr, batch_size, seed, progress))
    rows = []
    for site, folds in pair.walk(progress):                  # both networks go on to the next site
        sums = lstsq.total(folds)                            # X^T X and X^T E over all images
        how = {"ridge": ridge, "intercept": intercept and site.bias, "groups": site.groups}
        fit = lstsq.solve(sums, **how)                       # Q = I + D, section 3 of the paper
        rows.append(_report_row(site, folds, sums, fit, how))
        if rows[-1]["error_before"] > 0:
            pair.merge(site, fit, sums)                      # W' = Q W (theorem 1); later sites see it
    _warn_of_few_rows(rows, ridge, pair.images)
    settings = {"intercept": bool(intercept), "ridge": float(ridge), "shortcuts": bool(shortcuts)}
    return pair.finished(student, rows, {"method": method} | settings)


def _fskd_sgd(pair: "Pair", student: nn.Module, training: Training) -> nn.Module:
    """FSKD-SGD: all adaptors are trained at once, and merged in one sweep that also measures the errors."""
    trained = train_adaptors(*pair.graphs, pair.sites, pair.images, training)
    rows = []
    for (site, folds), q in zip(pair.walk(quiet), trained, strict=True):
        sums, fit = lstsq.total(folds), lstsq.Fit(q, None)
        rows.append(_error_row(site, sums, fit))
        pair.merge(site, fit, sums)
    return pair.finished(student, rows, {"method": "sgd"} | training.asked())


@public
@torch.no_grad()
def error_map(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    *,
    at: str = "block",
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> pd.Series:
    """The error of the student's features: layer -> squared error / variance of the teacher's feature.

    0 means: equal to the teacher. 1 means: no better than the mean of the teacher's features. The feature of
    a block is its output, with its shortcut. Arguments and errors are those of `fskd`.
    """
    pair = Pair(teacher, student, images, at, kept=kept)
    rows = [_error_row(site, lstsq.total(folds)) for site, folds in pair.walk(progress)]
    return pd.Series({row["layer"]: row["error_before"] for row in rows}, name="error")


class Pair:
    """Copies of teacher and student, their graphs, and the sites where a 1x1 conv can be merged."""

    def __init__(self, teacher: nn.Module, student: nn.Module, images: Tensor, at: str, **how: Any):
        """Check and copy the networks; `how` is for `find_sites`."""
        if at not in ("block", "conv"):
            raise ValueError(f'at={at!r}; it is "block" (behind each block) or "conv" (behind every conv).')
        self.images, self.at = check_images(images), at
        self.size = max(1, min(CHUNK, math.ceil(len(self.images) / FOLDS)))
        check_fits(self.images, teacher, student)
        self.recovered = clone(student).to(device_of(teacher)).eval()
        self.graphs = trace(frozen_copy(teacher), self.images), trace(self.recovered, self.images)
        self.sites, self.without = find_sites(*self.graphs, self.recovered, at=at, **how)

    def walk(self, progress: Progress | None) -> Iterator[tuple[Site, list[lstsq.Sums]]]:
        """Bring both networks from site to site; yield each site and the sums of its rows, fold by fold."""
        theirs, self.student = (Stepwise(graph, self._chunks()) for graph in self.graphs)
        sweep = walk(theirs, self.student, self.sites, folds=FOLDS)
        for _ in track(len(self.sites), progress):
            yield next(sweep)

    def merge(self, site: Site, fit: lstsq.Fit, sums: lstsq.Sums) -> None:
        """Merge the 1x1 conv into the student, and put it behind the site in the sweep under way."""
        merge_at(self.recovered, site, fit, sums)
        correct(self.student, site, fit)

    def finished(self, student: nn.Module, rows: list[dict[str, Any]], asked: dict[str, Any]) -> nn.Module:
        """The recovered student with its recipe and report, after a last check that the merges were exact."""
        self._check_merged(rows)
        asked = {"method": asked["method"], "at": self.at, "images": len(self.images)} | asked
        return with_report(self.recovered, student, "fskd", asked, rows)

    def _check_merged(self, rows: list[dict[str, Any]]) -> None:
        """Hold the merged network against the sweep: on some images both must have the same outputs.

        Raises:
            NotExact: names the first site whose error is larger than the one reported.
        """
        chunks = range(min(len(self.student.values), 1 + 8 // len(self.images[: self.size])))
        expected = torch.cat([self.student.finish(chunk) for chunk in chunks])           # (n, classes)
        found = self.recovered(self.images[: len(expected)].to(expected.device))
        varies = (expected - expected.mean(0)).norm() if len(expected) > 1 else expected.norm()
        # Rounding counts against the size of the outputs, which an offset makes larger than their variation.
        tf32 = found.is_cuda and torch.backends.cudnn.allow_tf32
        rounding = 2.0**-10 if tf32 else torch.finfo(found.dtype).eps
        difference = (found - expected).norm()
        if difference <= 1e-3 * varies + 32 * rounding * expected.norm():
            return
        error = float(difference / varies.clamp_min(1e-12))
        again = walk(*(Stepwise(graph, self._chunks()) for graph in self.graphs), self.sites)
        errors = (_error_row(site, lstsq.total(folds))["error_before"] for site, folds in again)
        pairs = zip(rows, errors, strict=True)
        wrong = [row["layer"] for row, real in pairs if real > 1.01 * row["error_after"]]
        raise NotExact(
            f"the merged network differs from the fitted one (relative error {error:.1e}), "
            f"{f'from {wrong[0]} on' if wrong else 'behind the last site'}.\n"
            f"  Something acts between a layer and its reader that torch.fx does not see."
        )

    def _chunks(self) -> list[Tensor]:
        return [part.to(device_of(self.recovered)) for part in self.images.split(self.size)]


def walk(
    theirs: Stepwise, mine: Stepwise, sites: Sequence[Site], *, folds: int = 1, fitted: int | None = None
) -> Iterator[tuple[Site, list[lstsq.Sums]]]:
    """Bring both networks from site to site; yield each site and the sums of its rows, in `folds` parts.

    Args:
        folds: fewer chunks than this make fewer parts.
        fitted: number of chunks whose rows are summed; the chunks behind them only come along. None: all.
    """
    for i, site in enumerate(sites):
        keep = {later.teacher_node for later in sites[i:]}  # the teacher's features still to be read
        parts: dict[int, lstsq.Sums] = {}
        for chunk in range(len(mine.values)):
            if fitted is not None and chunk >= fitted:
                mine.advance(chunk, site.stop)
                continue
            sums, fold = _sums_at(site, theirs, mine, chunk, keep), chunk % folds
            _check_finite(site, sums)
            parts[fold] = parts[fold] + sums if fold in parts else sums
        yield site, list(parts.values())


def _sums_at(site: Site, theirs: Stepwise, mine: Stepwise, chunk: int, keep: set[fx.Node]) -> lstsq.Sums:
    """Bring one chunk to the site in both networks; return the sums of its rows."""
    there = theirs.advance(chunk, 1 + theirs.place[site.teacher_node], keep)[site.teacher_node]
    here = mine.advance(chunk, site.stop)
    t = there if site.kept is None else there[:, site.kept.to(there.device)]     # (n, C, H, W)
    x = here[site.node]                                                          # (n, C, H, W)
    # Added in the teacher's order: where nothing differs, the error is 0 and not a rounding.
    whole = x if site.shortcut is None else x + here[site.shortcut]
    error = t - whole
    if site.tail:
        # Only errors behind the tail count. With a ReLU, -3 and -1 both become 0: there is nothing to fit.
        error = error.masked_fill(mine.apply(site.tail, whole) == mine.apply(site.tail, t), 0)
    return lstsq.Sums.of(x, error, t)


def correct(student: Stepwise, site: Site, fit: lstsq.Fit) -> None:
    """Put the fitted 1x1 conv behind the site in a network under way, so that later sites see its result."""
    for values in student.values:
        x = values[site.node]
        bias = None if fit.bias is None else fit.bias.to(x)
        x.copy_(F.conv2d(x, fit.q.to(x)[:, :, None, None], bias))  # in place: memory stays in one piece


def _error_row(site: Site, sums: lstsq.Sums, fit: lstsq.Fit | None = None) -> dict[str, Any]:
    row = {"layer": site.name, "error_before": lstsq.relative(float(sums.ee), sums)}
    return row if fit is None else row | {"error_after": lstsq.relative(lstsq.squared_error(sums, fit), sums)}


def _report_row(
    site: Site, folds: list[lstsq.Sums], sums: lstsq.Sums, fit: lstsq.Fit, how: dict[str, Any]
) -> dict[str, Any]:
    """One row of the report; the held-out error of a part is that of a fit to all other parts."""
    rank, condition = lstsq.rank_and_condition(sums, intercept=how["intercept"], groups=how["groups"])
    unseen = math.nan
    if len(folds) > 1:
        unseen = sum(lstsq.squared_error(part, lstsq.solve(sums - part, **how)) for part in folds)
    unknowns = len(sums.x) // site.groups + how["intercept"]
    return _error_row(site, sums, fit) | {
        "held_out_error": lstsq.relative(unseen, sums),
        "channels": len(sums.x),
        "rank": rank,
        "condition": condition,
        "rows": sums.rows,
        "unknowns": unknowns,
        "rows_per_unknown": sums.rows / unknowns,
    }


def _check_settings(method: str, ridge: float) -> None:
    if method not in ("closed", "sgd"):
        raise ValueError(f'method={method!r}; it is "closed" (least squares) or "sgd" (gradient descent).')
    if not (isinstance(ridge, int | float) and 0 <= ridge < math.inf):
        raise ValueError(f"ridge={ridge!r}; asked for a number >= 0, such as 0.01.\n  0 switches it off.")


def _check_finite(site: Site, sums: lstsq.Sums) -> None:
    """Refuse NaN and infinity in the features of either network."""
    whose = "teacher" if not sums.t.isfinite().all() else "student"
    if whose == "teacher" or not (sums.xx.isfinite().all() and sums.ee.isfinite()):
        raise ValueError(
            f"NaN or infinity in the {whose}'s features behind {site.name}.\n"
            f"  Look at that network's weights and BatchNorm statistics there; the images are finite."
        )


def _check_pair(pair: Pair, teacher: nn.Module, student: nn.Module, kept: Kept | None) -> None:
    sliced = any(edit.get("slices") for edit in recipe_of(student))
    if kept is None and sliced and teacher_fingerprint(student) != fingerprint(teacher):
        warn(
            "the student's recipe was made for another teacher (its SHA-256 differs from this one's), so the "
            "filters that it kept may not be the ones that it names.\n"
            "  Pass the very teacher that it was pruned from, before any training of it; or kept={...}."
        )
    if pair.without:
        lines = "\n".join(f"  {name}: {why}." for name, why in pair.without.items())
        warn(f"no adaptor behind these:\n{lines}")
    if not pair.sites:
        raise ValueError(f"no conv of this {type(student).__name__} can take an adaptor.")


def _warn_of_few_rows(rows: list[dict[str, Any]], ridge: float, images: Tensor) -> None:
    few = [row for row in rows if row["rows"] < row["unknowns"]]
    if not few:
        return
    worst = max(few, key=lambda row: row["unknowns"] / row["rows"])
    enough = math.ceil(4 * worst["unknowns"] / worst["rows"] * len(images))
    guard = f"The ridge of {ridge:g} keeps these fits near the identity."
    if not ridge:
        guard = "Without a ridge they are the fits nearest to the identity; ridge=0.01 guards against noise."
    warn(
        f"fewer rows (pixels of all images) than unknowns at {', '.join(row['layer'] for row in few)}; the "
        f"worst: {worst['rows']} rows for {worst['unknowns']} unknowns.\n"
        f"  About {enough} images would do: they give four rows per unknown. {guard}"
    )

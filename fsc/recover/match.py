"""Two networks side by side at one site: what the student's feature lacks there, and the student put right."""

import math

import torch.nn.functional as F
from torch import fx

from fsc.graph.stepwise import Walk
from fsc.recover import lstsq
from fsc.recover.sites import Site

CHUNK = 50
"""Images that pass through a network at a time."""


def target(site: Site, shortcuts: bool) -> fx.Node:
    """The teacher's feature that the student is fitted to: with `shortcuts` the sum with what an add puts on it."""
    return site.twin_sum if shortcuts and site.other is not None else site.twin


def sums_at(site: Site, theirs: Walk, mine: Walk, chunk: int, reads: set[fx.Node], shortcuts: bool) -> lstsq.Sums:
    """Both walks go on to the site with one chunk; the sums of its rows there.

    Args:
        reads: the teacher's features still to be read, kept until then.
    """
    wanted = target(site, shortcuts)
    there = theirs.advance(chunk, 1 + theirs.place[wanted], reads)
    here = mine.advance(chunk, site.stop, set())
    t = there[wanted] if site.kept is None else there[wanted][:, site.kept.to(there[wanted].device)]  # (n, C, H, W)
    x = here[site.node]
    # Added up as the teacher adds: where nothing differs, the error is zero, not a rounding.
    whole = x + here[site.other] if shortcuts and site.other is not None else x
    e = t - whole
    if site.last and (site.other is None or shortcuts):
        # Before a hole the ReLU behind it has the last word: what comes out right already is no error.
        e = e.masked_fill(mine.through(site.last, whole) == mine.through(site.last, t), 0)
    return lstsq.Sums.of(x, e, t)


def correct(site: Site, mine: Walk, fit: lstsq.Fit) -> None:
    """Put the fitted 1x1 conv behind the site, for all that stands there."""
    for values in mine.values:
        x = values[site.node]
        bias = None if fit.bias is None else fit.bias.to(x)
        x.copy_(F.conv2d(x, fit.q.to(x)[:, :, None, None], bias))  # in place: 5,000 images leave no holes


def check_finite(who: str, site: Site, sums: lstsq.Sums) -> None:
    """Refuse NaN and infinity in what either network made.

    Raises:
        ValueError: names the network and the layer.
    """
    if not sums.t.isfinite().all():
        whose, name = "teacher", site.twin.target
    elif not (sums.xx.isfinite().all() and sums.ee.isfinite()):
        whose, name = "student", site.name
    else:
        return
    raise ValueError(
        f"{who}: NaN or infinity in the {whose}'s features behind {name}.\n"
        f"  Look at that network's weights and BatchNorm statistics there; the images themselves are finite."
    )


def share(error: float, sums: lstsq.Sums) -> float:
    """The error relative to the variance of the teacher's feature."""
    scale, rounding = lstsq.spread(sums), 1e-14 * float(sums.tt)
    return error / scale if scale > rounding else (0.0 if error <= rounding else math.inf)


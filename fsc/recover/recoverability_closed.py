"""Blocks dropped on trial, all beside one pass of their teacher: what is left is brought back by least squares."""

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.graph.module_regions import regions
from fsc.graph.stepwise import Walk
from fsc.recover import lstsq
from fsc.recover.match import check_finite, correct, sums_at, target
from fsc.recover.sites import Site, find_sites
from fsc.recover.training import mean_squared
from fsc.runtime import Progress, track


@dataclass
class Candidate:
    """A block on trial.

    Attributes:
        name: the block; the row is about it.
        dropped: all blocks that are dropped with it, itself too.
        net: the teacher without them, its weights shared.
        body: the graph of that net, up to the feature that its head reads.
    """

    name: str
    dropped: Sequence[str]
    net: nn.Module
    body: fx.GraphModule


def try_all(
    who: str,
    teacher: fx.GraphModule,
    candidates: Sequence[Candidate],
    chunks: Sequence[Tensor],
    fitted: int,
    *,
    fit: bool = True,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """A row a candidate: its feature's mean squared error from the teacher's when merely dropped, and when absorbed.

    The teacher runs once. A candidate leaves its pass where the first of its features changes, so what lies before is
    computed once for all; behind, it is swept as by `fskd`, and its walk goes on with each fit. Nothing is merged.

    Args:
        teacher: its graph up to the feature that its head reads.
        chunks: images, (n, C, H, W) each.
        fitted: the first so many chunks enter the fits; the others walk along, held out.
        fit: without, only what merely dropping does.
    """
    theirs = Walk(teacher, list(chunks))
    trials = [_Trial(who, candidate, teacher, theirs, fitted, fit) for candidate in candidates]
    stops = sorted((stop for trial in trials for stop in trial.stops), key=lambda stop: stop.place)
    for i in track(len(stops), progress):
        reads = {stop.reads for stop in stops[i:]}
        for chunk in range(len(chunks)):
            theirs.advance(chunk, stops[i].place, reads)
        stops[i].do(reads)
    return [trial.row for trial in trials]


@dataclass
class _Stop:
    """Where the teacher's pass halts, before the node at `place`, for something to be done with what it `reads`.

    `do` is called with all that is still to be read at later stops.
    """

    place: int
    reads: fx.Node | None
    do: Callable[[set[fx.Node]], None]


class _Trial:
    """One candidate under way, in two walks: merely dropped, and with what comes behind the hole fitted."""

    def __init__(self, who: str, candidate: Candidate, teacher: fx.GraphModule, theirs: Walk, fitted: int, fit: bool):
        self.who, self.body, self.theirs, self.fitted, self.fit = who, candidate.body, theirs, fitted, fit
        nodes = list(self.body.graph.nodes)
        self.end = nodes[-1].all_input_nodes[0]
        self.their_end = theirs.nodes[-1].all_input_nodes[0]
        gone = {node.target: node for node in nodes if node.op == "call_module" and node.target in candidate.dropped}
        first = min(nodes.index(hole) for hole in gone.values())
        self.hole = gone[candidate.name]
        self.made = regions(teacher)[candidate.name].leaves[0]
        sites = find_sites(teacher, self.body, candidate.net, at="block")[0] if fit else []
        # Up to the first hole both graphs are one, so features that the teacher makes before it are still the same.
        sites = [site for site in sites if theirs.place[target(site, True)] >= first]
        start = min([first, *(site.stop for site in sites)])
        self.row: dict[str, float] = {"sites": len(sites), "seconds": 0.0}
        self.stops = [_Stop(start, None, self._timed(self._start))]
        self.stops.append(_Stop(1 + theirs.place[self.made], self.made, self._timed(self._compare)))
        place = start
        for site in sites:
            place = max(place, 1 + theirs.place[target(site, True)])
            self.stops.append(_Stop(place, target(site, True), self._timed(partial(self._fit, site))))
        self.stops.append(_Stop(len(theirs.nodes) - 1, self.their_end, self._timed(self._finish)))

    def _timed(self, do: Callable[[set[fx.Node]], None]) -> Callable[[set[fx.Node]], None]:
        def timed(reads: set[fx.Node]) -> None:
            begin = time.perf_counter()
            do(reads)
            self.row["seconds"] += time.perf_counter() - begin
        return timed

    def _start(self, reads: set[fx.Node]) -> None:
        self.into: list[Tensor] = []
        self.features: list[Tensor] = []
        dropped = self.theirs.branch(self.body)
        for chunk in range(len(dropped.values)):
            values = dropped.advance(chunk, 1 + dropped.place[self.hole], {self.hole})
            self.into.append(values[self.hole].clone())  # what follows may work in place
            self.features.append(dropped.advance(chunk, len(dropped.nodes) - 1, set())[self.end])
        if self.fit:
            self.mine = self.theirs.branch(self.body)

    def _compare(self, reads: set[fx.Node]) -> None:
        made = [values[self.made] for values in self.theirs.values]
        pairs = zip(self.into, made, strict=True)
        alike = [F.cosine_similarity(a.flatten(1), b.flatten(1)).double().sum() for a, b in pairs]
        self.row["cosine"] = float(sum(alike)) / sum(map(len, made))
        del self.into

    def _fit(self, site: Site, reads: set[fx.Node]) -> None:
        found = [sums_at(site, self.theirs, self.mine, c, reads, True) for c in range(self.fitted)]
        total = reduce(operator.add, found)
        check_finite(self.who, site, total)
        for chunk in range(self.fitted, len(self.mine.values)):
            self.mine.advance(chunk, site.stop, set())
        if total.ee > 0:
            correct(site, self.mine, lstsq.solve(total, ridge=lstsq.RIDGE, intercept=site.bias, groups=site.groups))

    def _finish(self, reads: set[fx.Node]) -> None:
        wanted = [values[self.their_end] for values in self.theirs.values]
        self.row["dropped_mse"] = mean_squared(self.features[: self.fitted], wanted[: self.fitted])
        if self.fit:
            self.features = [
                self.mine.advance(chunk, len(self.mine.nodes) - 1, set())[self.end] for chunk in range(len(wanted))
            ]
            self.row["recoverability"] = mean_squared(self.features[: self.fitted], wanted[: self.fitted])
            self.row["held_out_recoverability"] = mean_squared(self.features[self.fitted :], wanted[self.fitted :])
        del self.features

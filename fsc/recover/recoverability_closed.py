"""Recoverability in closed form (extension): least squares on the blocks that remain."""

import time
from collections.abc import Sequence

from torch import fx

from fsc.graph.stepwise import Stepwise
from fsc.recover import lstsq
from fsc.recover.candidate_blocks import Candidate, Trial, merely_dropped
from fsc.recover.fskd import correct, walk
from fsc.recover.sites import Site, find_sites
from fsc.runtime import Progress, track


def judge_in_closed_form(
    teacher: fx.GraphModule, candidates: Sequence[Candidate], trial: Trial, progress: Progress | None
) -> list[dict[str, float]]:
    """One row per candidate: its losses when merely dropped, and after FSKD's sweep over what remains.

    The teacher runs once. Each candidate takes over its features where the two begin to differ, and goes on
    from there alone. Nothing is merged: only the features are corrected.
    """
    shared = Stepwise(teacher, trial.chunks)
    plans = [(*_plan(teacher, candidate), candidate) for candidate in candidates]
    plans.sort(key=lambda plan: plan[0])
    rows = {}
    for i in track(len(plans), progress):
        start, sites, candidate = plans[i]
        begin = time.perf_counter()
        for chunk in range(len(trial.chunks)):
            shared.advance(chunk, start)
        row = merely_dropped(shared, candidate, trial)
        theirs, mine = shared.branch(teacher), shared.branch(candidate.body)
        for site, (sums,) in walk(theirs, mine, sites, fitted=trial.fitted):
            if sums.ee > 0:
                fit = lstsq.solve(sums, ridge=lstsq.RIDGE, intercept=site.bias, groups=site.groups)
                correct(mine, site, fit)
        found = [mine.finish(chunk) for chunk in range(len(trial.chunks))]
        row["recoverability"], row["held_out_recoverability"] = trial.losses(found)
        rows[candidate.name] = row | {"sites": len(sites), "seconds": time.perf_counter() - begin}
    return [rows[candidate.name] for candidate in candidates]


def _plan(teacher: fx.GraphModule, candidate: Candidate) -> tuple[int, list[Site]]:
    """The place where the candidate leaves the teacher's pass, and the sites that are swept from there."""
    sites, _ = find_sites(teacher, candidate.body, candidate.net, at="block")
    place = {node: i for i, node in enumerate(teacher.graph.nodes)}
    # Features before the first dropped block are still the teacher's: nothing is to be fitted there.
    sites = [site for site in sites if place[site.teacher_node] >= candidate.start]
    return min([candidate.start, *(site.stop for site in sites)]), sites

"""How much time each block takes: the share of a pass that dropping it saves, shared by blocks that are the same."""

import pandas as pd
from torch import Tensor, nn

from fsc.graph.module_regions import regions
from fsc.graph.tracing import trace
from fsc.measure.latency import SAME, latency
from fsc.runtime import Progress

FLOOR = 0.001
"""No saving counts as less: one measured at -0.1 % would turn a score around and sort first."""


def latency_saved(
    teacher: nn.Module,
    dropped: dict[str, nn.Module],
    example: Tensor,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """A row a block: latency_saved, the share of the teacher's time, and whether it is more than noise.

    All nets are timed in turn, in one go. Blocks of the same structure that read the same shape share the median of
    their times. `latency_measurable` is False where the 95 % interval of the ratio reaches 1 - 0.02, by which copies of
    one network differ. No saving counts as less than `FLOOR`.

    Args:
        dropped: block -> the teacher without it.
        example: (1, C, H, W), the batch that is timed.
        threads: of the CPU, as in `latency`.
    """
    inside = regions(trace(teacher, example))
    alike = [f"{inside[name].reads[0].meta['shape']} {teacher.get_submodule(name)}" for name in dropped]
    timed = latency({"the teacher": teacher, **dropped}, example, threads=threads, progress=progress)
    shared = timed.iloc[1:].groupby(alike)[["ratio", "high"]].transform("median")
    table = pd.DataFrame({
        "latency_saved": (1 - shared.ratio).clip(lower=FLOOR), "latency_measurable": shared.high < 1 - SAME,
    })  # fmt: skip
    table.attrs["measured"] = timed.attrs["measured"]
    return table

"""Bars for the cost of students: parameters, MACs and measured time."""

import textwrap

import numpy as np
import pandas as pd

from fsc.arguments import check_columns, one_of
from fsc.plots import drawing
from fsc.plots.drawing import COLOURS, INK, PAPER, TEXT, WIDE, Picture
from fsc.plots.readings import percent
from fsc.runtime import public

GREYS = ("#5B7083", "#B4C3CE", "#2B3640", "#8A7F73")  # for networks that have no method's name


@public
def costs(table: pd.DataFrame, *, teacher: str = "teacher") -> Picture:
    """Draw parameters, MACs and measured time of each student as bars, relative to its teacher.

    The `numbers` of the picture are {network: {"time", "low", "high", "params", "macs"}}, as shares.

    Args:
        table: one row per network, as from `fsc.compare`: params, macs, and ratio, low, high, verdict.
        teacher: the row that is 100 %; the times are relative to it.

    Raises:
        ValueError: a column, the teacher or students are missing; the times are relative to another network.

    >>> fsc.plots.costs(fsc.compare({"teacher": teacher, "half": student}, task))
    """
    check_columns(table, "params", "macs", "ratio", "low", "high", "verdict")
    whole = table.loc[one_of("network", teacher, table.index)]
    students = table.drop(index=teacher)
    if students.empty or whole.ratio != 1:
        found = f"the times are relative to another network ({teacher} takes {whole.ratio:.3f} of its time)"
        found = "there is none" if students.empty else found
        raise ValueError(
            f"asked for students beside {teacher}; {found}.\n"
            f'  Pass the table of fsc.compare({{"teacher": teacher, "student": student}}, task).'
        )
    relative = students[["ratio", "low", "high"]].rename(columns={"ratio": "time"}).astype(float)
    relative["params"], relative["macs"] = students.params / whole.params, students.macs / whole.macs

    ylabel, title = f"relative to {teacher} (%)", "lower is cheaper; line on time: 95 % interval"
    axes = drawing.new_axes(drawing.new_figure(), WIDE, "", ylabel, title)
    width = 0.8 / len(students)
    for i, (name, row) in enumerate(relative.iterrows()):
        places = np.arange(3) + (i - (len(students) - 1) / 2) * width
        bars, tops = 100 * row[["params", "macs", "time"]], 100 * row[["params", "macs", "high"]]
        colour = COLOURS.get(name, GREYS[i % len(GREYS)])
        axes.bar(places, bars, 0.92 * width, color=colour, label=textwrap.fill(str(name), 18))
        ends = 100 * row[["low", "high"]]
        axes.plot(places[[2, 2]], ends, color=INK, linewidth=2.5, marker="_", markersize=12)
        above = dict(textcoords="offset points", ha="center", fontsize=TEXT, color=INK)
        for place, bar, top in zip(places, bars, tops, strict=True):
            axes.annotate(f"{bar:.0f}", (place, top), (0, 5), **above).set_bbox(dict(PAPER, pad=0.5))
    drawing.draw_level(axes, 1, label=textwrap.fill(teacher, 18))
    axes.set_ylim(0, 114 * max(1, relative.to_numpy().max()))
    axes.set_xticks(range(3), ["parameters", "MACs", "time, measured"], fontsize=TEXT + 1)
    axes.grid(visible=False, axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(1.0, 0.0), fontsize=TEXT, frameon=False)

    readings = [
        f"{name}: {percent(row.params)} of the parameters, {percent(row.macs)} of the MACs, "
        f"{percent(row.time)} of the time ({percent(row.low)} to {percent(row.high)}, {row.verdict})"
        for name, row in relative.assign(verdict=students.verdict).iterrows()
    ]
    sentence = f"{'; '.join(readings)}."
    alt = f"Bar chart of parameters, MACs and measured time relative to {teacher}. {sentence}"
    return Picture(axes.figure, alt, sentence, relative.to_dict("index"))

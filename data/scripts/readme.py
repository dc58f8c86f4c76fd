"""Write the marked tables of the READMEs, and the figure that README.md shows, from the stored studies.

    python data/scripts/readme.py

A table stands between the marks <!-- table STUDY ARGUMENTS --> and <!-- end -->. The studies and their
arguments are "methods TASK NET RATIO", "blocks TASK NET", "time TASK IMAGES" and "recoverability". Nothing is
measured here.
"""

import re
from pathlib import Path

import measure_blocks
import measure_methods
import measure_recoverability
import measure_study
from common import STUDIES, read

import fsc

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md"]
FIGURE = STUDIES / "frontier.png"
TABLES = {
    "methods": lambda task, arch, ratio: measure_methods.table(task, arch, float(ratio)),
    "blocks": measure_blocks.table,
    "time": lambda task, samples: measure_study.table(task, int(samples)),
    "recoverability": measure_recoverability.table,
}
MARKED = re.compile(r"(<!-- table (\w+)((?: [\w.]+)*) -->\n).*?(\n<!-- end -->)", re.DOTALL)
SHOWN = re.compile(r"!\[[^\]]*\]\(data/studies/frontier.png\)")


def figure() -> fsc.plots.Picture:
    """The explorer's figure of the photographs, at one setting."""
    return fsc.plots.overview(read("all_cifar10"), method="practise", samples=500, ratio=0.5)


def refreshed(page: str) -> str:
    """The text of a README; its marked tables and the figure's alt text come from the stored rows."""
    page = MARKED.sub(lambda m: m[1] + TABLES[m[2]](*m[3].split()) + m[4], page)
    return SHOWN.sub(lambda _: f"![{figure().alt}](data/studies/frontier.png)", page)


def main() -> None:
    for page in PAGES:
        page.write_text(refreshed(page.read_text()))
    FIGURE.write_bytes(figure().png())


if __name__ == "__main__":
    main()

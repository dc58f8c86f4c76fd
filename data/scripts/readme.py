"""Write every marked table into the READMEs, from the stored studies, and the figure that README.md shows.

    python data/scripts/readme.py

A mark is <!-- table STUDY ARGUMENTS --> with <!-- end --> behind the table: "methods TASK NET RATIO",
"blocks TASK NET", "time TASK IMAGES", "recoverability". Nothing is measured here.
"""

import re
from pathlib import Path

import measure_blocks
import measure_methods
import measure_recoverability
import measure_study
import pandas as pd

import fsc

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md"]
FIGURE = ROOT / "data" / "frontier.png"
TABLES = {
    "methods": lambda task, arch, ratio: measure_methods.table(task, arch, float(ratio)),
    "blocks": measure_blocks.table,
    "time": lambda task, samples: measure_study.table(task, int(samples)),
    "recoverability": measure_recoverability.table,
}
MARKED = re.compile(r"(<!-- table (\w+)((?: [\w.]+)*) -->\n).*?(\n<!-- end -->)", re.DOTALL)
SHOWN = re.compile(r"!\[[^\]]*\]\(data/studies/frontier.png\)")


def figure() -> fsc.plots.Picture:
    """What the explorer shows of the photographs, at one setting."""
    study = pd.read_csv(measure_study.store_of("cifar10"), comment="#")
    return fsc.plots.overview(study, method="practise", samples=500, ratio=0.5)


def refreshed(page: str) -> str:
    """The text of a README with each marked table as the stored rows have it, and the figure's alt text."""
    page = MARKED.sub(lambda m: m[1] + TABLES[m[2]](*m[3].split()) + m[4], page)
    return SHOWN.sub(lambda _: f"![{figure().alt}](data/studies/frontier.png)", page)


def main() -> None:
    for page in PAGES:
        page.write_text(refreshed(page.read_text()))
    FIGURE.write_bytes(figure().png())


if __name__ == "__main__":
    main()

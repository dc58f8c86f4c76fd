"""Choose the defaults of fskd by errors on held-out few images, on several networks; no test image is read.

    python data/scripts/choose_fskd.py            # measure what is not stored yet, then print the tables
    python data/scripts/choose_fskd.py --table    # print the tables of studies/fskd_defaults.csv only

Four fifths of the few images are fitted. The rest judges, by the error of the last feature that the student
shares with its teacher. Photographs are measured where FSC_REAL_DATA names their folder.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
from common import fill, parser_of, pruned, read, store_of, tasks, teacher_of

import fsc
from fsc.runtime import quiet

NETS = [("shapes", "resnet20"), ("shapes", "mobilenet"), ("shapes", "vgg9"), ("cifar10", "resnet20"),
        ("cifar10", "resnet32")]  # fmt: skip
SAMPLES, SEEDS = (50, 500), range(3)
START = {"method": "closed", "at": "conv", "intercept": True, "ridge": 1e-3, "shortcuts": True}
KNOBS = {"at": ["block"], "intercept": [False], "shortcuts": [False], "ridge": [0.0, 1e-4, 1e-2, 1e-1]}
RATES = (0.02, 0.1, 0.5, 1.0)
SETTINGS = {  # name: arguments of fskd; first where the search starts, then one argument changed at a time
    "start": START,
    **{f"{knob}={value}": START | {knob: value} for knob, values in KNOBS.items() for value in values},
    **{f"sgd lr={lr}": {"method": "sgd", "lr": lr, "steps": 100, "at": "conv"} for lr in RATES},
}
KEY = ["task", "arch", "samples", "seed", "setting"]


def wanted() -> Iterator[dict]:
    """The keys of all rows; SGD is measured on ResNet-20 with one seed only."""
    for (task, arch), samples, seed, setting in itertools.product(NETS, SAMPLES, SEEDS, SETTINGS):
        closed = SETTINGS[setting]["method"] == "closed"
        if task in tasks() and (closed or (arch == "resnet20" and seed == 0)):
            yield dict(zip(KEY, (task, arch, samples, seed, setting), strict=True))


def measured(task: str, arch: str, samples: int, seed: int, setting: str) -> dict:
    images, teacher = tasks()[task].sample(samples, seed=seed).images, teacher_of(task, arch)
    fitted, held_out = images[: samples * 4 // 5], images[samples * 4 // 5 :]
    student = fsc.fskd(teacher, pruned(task, arch, 0.5), fitted, **SETTINGS[setting], progress=quiet)
    errors = fsc.error_map(teacher, student, held_out, progress=quiet)
    return {"held_out_error": round(float(errors.iloc[-1]), 5)}


def table() -> str:
    """Mean held-out error over the seeds: one row per setting, one column per network and number of images.

    The last column is the geometric mean relative to the first row, over the columns that the row has.
    """
    rows, columns = read("fskd_defaults"), ["task", "arch", "samples"]
    wide = rows.pivot_table(index="setting", columns=columns, values="held_out_error", sort=False)
    overall = np.exp(np.log(wide / wide.loc["start"]).mean(axis=1))
    return pd.concat([wide, overall.rename(("overall", "", ""))], axis=1).round(3).to_string()


def main() -> None:
    if not parser_of(__doc__).parse_args().table:
        fill(store_of("fskd_defaults", __file__, [*KEY, "held_out_error"], KEY), wanted(), measured)
    print(table())


if __name__ == "__main__":
    main()

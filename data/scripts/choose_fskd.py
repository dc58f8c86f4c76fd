"""How the defaults of fskd were chosen: by errors on held-out few images, on several networks; no test image is read.

    python data/scripts/choose_fskd.py            # measure what is not stored yet, then print the tables
    python data/scripts/choose_fskd.py --table    # print the tables of studies/fskd_defaults.csv only

The few images are split: four fifths are fitted, the rest judges, by the error of the last feature that the student
shares with its teacher. Photographs are measured where FSC_REAL_DATA names their folder.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure_methods import tasks

import fsc
from fsc.recover.fskd import error_map
from fsc.runtime import quiet

STORE = Path(__file__).parents[1] / "studies" / "fskd_defaults.csv"
NETS = [("shapes", "resnet20"), ("shapes", "mobilenet"), ("shapes", "vgg9"), ("cifar10", "resnet20"),
        ("cifar10", "resnet32")]  # fmt: skip
SAMPLES, SEEDS = (50, 500), range(3)
START = {"method": "closed", "at": "conv", "intercept": True, "ridge": 1e-3, "shortcuts": True}
KNOBS = {"at": ["block"], "intercept": [False], "shortcuts": [False], "ridge": [0.0, 1e-4, 1e-2, 1e-1]}
SGD = [{"method": "sgd", "lr": lr, "steps": 100} for lr in (0.02, 0.1, 0.5, 1.0)]
COLUMNS = ["task", "arch", "samples", "seed", "setting", "held_out_error"]


def settings() -> dict[str, dict]:
    """Name -> arguments of fskd: where the search starts, and one argument changed at a time."""
    one_changed = [(f"{knob}={value}", START | {knob: value}) for knob, values in KNOBS.items() for value in values]
    trained = [(f"sgd lr={s['lr']}", s | {"at": "conv"}) for s in SGD]
    return {"start": START} | dict(one_changed) | dict(trained)


def measure() -> None:
    done = set(read()[COLUMNS[:5]].itertuples(index=False, name=None)) if STORE.exists() else set()
    loaded = tasks()
    for name, arch in NETS:
        if name not in loaded:
            continue
        teacher = fsc.load_teacher(arch, loaded[name])
        student = fsc.prune_filters(teacher, 0.5)
        for samples in SAMPLES:
            for seed in SEEDS:
                images = loaded[name].sample(samples, seed=seed).images
                fitted, judges = images[: samples * 4 // 5], images[samples * 4 // 5 :]
                for setting, how in settings().items():
                    key = (name, arch, samples, seed, setting)
                    if key in done or (how["method"] == "sgd" and (arch != "resnet20" or seed > 0)):
                        continue
                    repaired = fsc.fskd(teacher, student, fitted, **how, progress=quiet)
                    error = error_map(teacher, repaired, judges, progress=quiet).iloc[-1]
                    store([*key, f"{error:.5f}"])


def store(row: list) -> None:
    if not STORE.exists():
        STORE.write_text(f"# python data/scripts/choose_fskd.py: fsc {fsc.__version__}, torch {torch.__version__}, CPU\n"
                         f"{','.join(COLUMNS)}\n")
    with STORE.open("a") as file:
        file.write(",".join(map(str, row)) + "\n")


def read() -> pd.DataFrame:
    return pd.read_csv(STORE, comment="#")


def table() -> str:
    """Mean held-out error over the draws: a row a setting, a column a network and a number of images.

    The last column is the geometric mean relative to the first row, over the networks that a row was measured on.
    """
    rows = read()
    wide = rows.pivot_table(index="setting", columns=["task", "arch", "samples"], values="held_out_error", sort=False)
    overall = np.exp(np.log(wide / wide.loc["start"]).mean(axis=1))
    return pd.concat([wide, overall.rename(("overall", "", ""))], axis=1).round(3).to_string()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the tables from the stored rows; measure nothing")
    if not parser.parse_args().table:
        measure()
    print(table())


if __name__ == "__main__":
    main()

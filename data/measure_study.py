"""Measure the studies that ship, studies/all_TASK.csv: every method under both knobs, with measured latency.

    python data/measure_study.py             # drawings; photographs too where FSC_REAL_DATA names their folder
    python data/measure_study.py cifar10     # one of them

A run that was stopped goes on where it was. Draws come in turn, so a study that was ended early has every method on
fewer draws. On a machine with other work the times are not to be trusted.
"""

import argparse

import torch
from measure_methods import tasks

import fsc

ARCH, STEPS, SEEDS = "resnet20", 200, range(5)
PARTS = [  # methods, numbers of images, shares of the MACs to remove
    (["bn", "fskd", "fskd-published"], [50, 100, 200, 500], [0.1, 0.2, 0.3, 0.5, 0.7]),
    (["practise-closed"], [50, 100, 200, 500], [0.1, 0.2, 0.3, 0.5]),
    (["finetune", "mir", "fskd+mir"], [50, 500], [0.3, 0.5, 0.7]),
    (["practise"], [50, 500], [0.1, 0.2, 0.3, 0.5]),
]


def store_of(task: str):
    return fsc.data_dir() / "studies" / f"all_{task}.csv"


def measure(name: str, task: fsc.tasks.Task, seeds: int) -> None:
    teacher = fsc.load_teacher(ARCH, task)
    for seed in SEEDS[:seeds]:
        for methods, samples, ratios in PARTS:
            fsc.study(task, teacher, methods=methods, samples=samples, ratios=ratios, seeds=[seed],
                      store=store_of(name), steps=STEPS, arch=ARCH, jobs=1)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="TASK", help="shapes or cifar10; none: all there are")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many draws of the images")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name, task in tasks().items():
        if name in asked.names or not asked.names:
            measure(name, task, asked.seeds)


if __name__ == "__main__":
    main()

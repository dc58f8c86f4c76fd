"""Few-sample compression of convolutional networks: prune, recover with a handful of unlabelled images, measure, show.

Every step is a function from plain modules and tensors to a new plain module; the teacher is never touched.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "runtime": ["setup", "data_dir"],
    "tasks": ["load_task"],
    "teachers": ["load_teacher"],
    "filters": ["prune_filters", "prunable_layers"],
    "lowrank": ["factorize"],
    "blocks": ["droppable_blocks", "drop_blocks"],
    "align": ["fskd", "error_map"],
    "choose": ["recoverability", "practise"],
    "baselines": ["finetune", "distill"],
    "mimic": ["mir"],
    "measure": ["accuracy", "agreement", "cost", "latency", "compare"],
    "recipe": ["recipe_of", "kept_channels", "report_of", "save", "load"],
    "sweeps": ["study"],
    "plots": [],
    "widgets": [],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    """Import a public name when it is first asked for, so that `import fsc` costs next to nothing."""
    if name in _HOMES:
        return importlib.import_module(f"fsc.{name}")
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"fsc.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fsc' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_HOMES])

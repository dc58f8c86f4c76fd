"""Few-sample compression of CNNs: prune, recover with a handful of unlabelled images, measure, show.

Every step is a function from plain modules and tensors to a new plain module; the teacher is never touched.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "runtime": ["setup", "data_dir"],
    "inputs.tasks": ["load_task"],
    "inputs.teachers": ["load_teacher"],
    "graph.tracing": ["NotTraceable"],
    "surgery.exactness": ["NotExact"],
    "surgery.recipe": ["recipe_of", "report_of", "kept_channels", "save", "load"],
    "measure.quality": ["accuracy", "agreement", "cost", "compare"],
    "measure.latency": ["latency"],
    "compress.filters": ["prune_filters", "prunable_layers"],
    "compress.lowrank": ["factorize"],
    "compress.blocks": ["droppable_blocks", "drop_blocks"],
    "recover.fskd": ["fskd", "error_map"],
    "recover.mir": ["mir"],
    "recover.recoverability": ["recoverability"],
    "recover.practise": ["practise"],
    "recover.baselines": ["finetune", "distill"],
    "studies.study": ["study"],
}
_MODULES = ["runtime", "arguments", "inputs", "graph", "surgery", "measure", "compress", "recover", "studies",
            "plots", "widgets"]
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    """Import a public name when it is first asked for, so that `import fsc` costs next to nothing."""
    if name in _MODULES:
        return importlib.import_module(f"fsc.{name}")
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"fsc.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fsc' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_MODULES])

"""One run of a study: make a student, see that it is one, measure it; what goes wrong stands in its row."""

import contextlib
import platform
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from fsc.compress.blocks import droppable_blocks
from fsc.compress.macs_budget import blocks_to_drop, filters_to_prune, prune
from fsc.inputs.tasks import Images, Task
from fsc.measure.quality import cost
from fsc.recover.recoverability import savings
from fsc.runtime import Progress, clone, device_of, evaluating, fingerprint, quiet
from fsc.studies.methods import METHODS, Method, code_of, digest_of

_ONE_AT_A_TIME = threading.Lock()  # a run seeds torch's global generator and sets its threads, which are the process's


class Run(NamedTuple):
    """What is asked of one run: the teacher has no ratio, and it and "none" have neither images nor a draw of them."""

    method: str
    ratio: float | None = None
    samples: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Bench:
    """What all runs of a study share.

    `settings`: (family, ratio) -> how much to take away, or why nobody knows. `timed`: what dropping each block saves.
    """

    task: Task
    teacher: nn.Module
    methods: Mapping[str, Method]
    steps: int
    identity: Mapping[str, str]
    answers: Tensor | None = None
    macs: int = 0
    settings: Mapping[tuple[str, float | None], float | str] = field(default_factory=dict)
    timed: pd.DataFrame | None = None

    def head(self, run: Run) -> dict[str, Any]:
        """The cells that tell the run's row from all others."""
        method = self.methods[run.method]
        steps = self.steps if method.descends else None
        return {**self.identity, **run._asdict(), "steps": steps, "function": code_of(method.function)}


def new_bench(task: Task, teacher: nn.Module, methods: Mapping[str, Method], *, steps: int, arch: str) -> Bench:
    """A bench whose runs can be told apart; before one of them, `prepare` it."""
    labels = [None if split.labels is None else split.labels.tolist() for split in (task.train, task.test)]
    data = digest_of(task.classes, task.size, task.mean, task.std, len(task.train), labels)
    identity = {"task": task.name, "arch": arch, "teacher": f"sha256:{fingerprint(teacher)[:12]}", "data": data}
    return Bench(task, teacher, {"teacher": METHODS["teacher"], "none": METHODS["none"], **methods}, steps, identity)


def prepare(bench: Bench, runs: Iterable[Run]) -> Bench:
    """A bench that knows what the teacher answers and costs, and how much these runs have to take away.

    What dropping a block saves is timed here, once for all runs: while they compete for the machine, no time counts.
    """
    example = bench.task.example
    search = {"filters": filters_to_prune, "blocks": blocks_to_drop}
    settings = dict(bench.settings)
    for run in runs:
        family = bench.methods[run.method].family
        if family in search and (family, run.ratio) not in settings:
            try:
                settings[family, run.ratio] = search[family](bench.teacher, run.ratio, example)
            except Exception as err:  # the runs that need it will say so in their rows
                settings[family, run.ratio] = f"{type(err).__name__}: {err}"
    if bench.timed is None and any(family == "blocks" and isinstance(n, int) for (family, _), n in settings.items()):
        teacher = clone(bench.teacher).eval().requires_grad_(False)
        names = droppable_blocks(teacher, example=example)
        bench = replace(bench, timed=savings("study", teacher, names, example, quiet, threads=1))
    if bench.answers is not None:
        return replace(bench, settings=settings)
    answers = _answers(bench.teacher, bench.task.test)
    return replace(bench, answers=answers, macs=cost(bench.teacher, example).macs, settings=settings)


def do(
    bench: Bench, run: Run, *, threads: int | None = None, progress: Progress
) -> tuple[dict[str, Any], nn.Module | None]:
    """The run's row, and its student; none where it failed.

    Torch is seeded with the run's seed meanwhile, and warnings are not shown.

    Args:
        bench: a prepared one.
        threads: of the CPU; None leaves torch's own number.
        progress: called with (done, in all) by methods that have steps; what it raises ends the run, and comes out.

    Raises:
        KeyboardInterrupt: Ctrl-C came, even if the method made a student of what it had, as `mir` does.
    """
    device, family = device_of(bench.teacher), bench.methods[run.method].family
    setting = bench.settings.get((family, run.ratio))
    with _ONE_AT_A_TIME, _heeding_interrupts(), _surroundings(device, run.seed or 0, threads):
        row = bench.head(run) | _provenance(device) | {"family": family}
        if isinstance(setting, str):
            return row | {"error": setting}, None
        try:
            student, seconds = _make(bench, run, setting, progress)
            return row | {"setting": setting, "seconds": seconds} | _measured(bench, student), student
        except _Halted as halt:
            raise halt.__cause__ from None
        except Exception as err:
            return row | {"setting": setting, "error": f"{type(err).__name__}: {err}"}, None


def _make(bench: Bench, run: Run, setting: float | None, progress: Progress) -> tuple[nn.Module, float]:
    """The student, and the seconds that the method took: to draw the images and to prune is not its work."""
    method = bench.methods[run.method]
    teacher = clone(bench.teacher).eval()  # a copy, so that whatever a method does to it harms no other run
    for mine, its in zip(teacher.parameters(), bench.teacher.parameters(), strict=True):
        mine.requires_grad_(its.requires_grad)
    few = None if run.samples is None else bench.task.sample(run.samples, seed=run.seed)
    if few is not None:
        _ = few.images  # decoded now: that, too, is not its work
    start = {"teacher": teacher, "own": run.ratio, "blocks": (setting, bench.timed)}.get(method.family, setting)
    if method.family == "filters":
        start = prune(teacher, setting, bench.task.example)
    begin = time.perf_counter()
    student = method.make(teacher, start, few, steps=bench.steps, seed=run.seed, progress=_halting(progress))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = round(time.perf_counter() - begin, 2)
    if method.family != "teacher":
        _check_student(student, teacher, bench.identity["teacher"])
    return student, seconds


def _check_student(student: Any, teacher: nn.Module, was: str) -> None:
    if not isinstance(student, nn.Module):
        raise TypeError(f"the method returned a {type(student).__name__}; asked for a network, an nn.Module.")
    if f"sha256:{fingerprint(teacher)[:12]}" != was:
        raise ValueError("the method changed the teacher; asked for a student beside it: begin with a copy.")
    if f"sha256:{fingerprint(student)[:12]}" == was:
        raise ValueError("the method returned the teacher unchanged; asked for a student of fewer MACs.")


def _measured(bench: Bench, student: nn.Module) -> dict[str, Any]:
    found, labels = _answers(student, bench.task.test), bench.task.test.labels.cpu()
    params, macs = cost(student, bench.task.example)
    return {
        "accuracy": int((found == labels).sum()) / len(found),
        "agreement": int((found == bench.answers).sum()) / len(found),
        "params": params,
        "macs": macs,
        "reached": round(1 - macs / bench.macs, 4),
        "structure": _structure(student),
    }


def _answers(net: nn.Module, images: Images) -> Tensor:
    """The class that the network scores highest, for each image: (N,), on the CPU."""
    found = []
    with evaluating(net), torch.no_grad():
        for batch, _ in images.batches():
            scores = net(batch.to(device_of(net)))                     # (n, classes)
            if scores.isnan().any():
                raise ValueError("the network's scores are NaN on test images; did its training diverge?")
            found.append(scores.topk(1).indices[:, 0].cpu())
    return torch.cat(found)


def _structure(net: nn.Module) -> str:
    """Names, kinds and shapes of all modules: networks alike in this take the same time."""
    parts = []
    for name, module in net.named_modules():
        tensors = {**module._parameters, **module._buffers}
        options = module.extra_repr()
        if isinstance(module, nn.modules.conv._ConvNd):  # with or without a bias: no difference that can be measured
            tensors.pop("bias")
            options = options.replace(", bias=False", "")
        shapes = [(key, tuple(t.shape), str(t.dtype)) for key, t in tensors.items() if t is not None]
        parts.append((name, type(module).__name__, options, shapes))
    return digest_of(parts)


def _provenance(device: torch.device) -> dict[str, str]:
    threads = torch.get_num_threads()
    cpu = f"{platform.machine()} CPU, {threads} thread{'s' * (threads > 1)}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return {"fsc": version("fsc"), "torch": torch.__version__, "device": where}


class _Halted(BaseException):
    """What `progress` raised, so wrapped that no method catches it and no row says that the method failed."""


def _halting(progress: Progress) -> Progress:
    def report(done: int, total: int) -> None:
        try:
            progress(done, total)
        except BaseException as err:
            raise _Halted from err

    return report


@contextlib.contextmanager
def _heeding_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end if Ctrl-C came meanwhile and was caught."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _surroundings(device: torch.device, seed: int, threads: int | None) -> Iterator[None]:
    was = torch.get_num_threads()
    gpus = [device] if device.type == "cuda" else []
    with warnings.catch_warnings(), torch.random.fork_rng(gpus):
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU of the machine
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        torch.set_num_threads(threads or was)
        try:
            yield
        finally:
            torch.set_num_threads(was)

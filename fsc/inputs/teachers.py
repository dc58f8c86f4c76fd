"""Pretrained networks, SHA-256 checked: shipped here, published for CIFAR-10, or of torchvision."""

import hashlib
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn

from fsc.arguments import nearest
from fsc.inputs.builtin_tasks import builtin_task
from fsc.inputs.nets import NETS
from fsc.runtime import best_device, data_dir, public

CIFAR10_URL = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
CIFAR10_FILES = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet44": "resnet44-014dd654.th",
    "resnet56": "resnet56-4bfd9763.th",
}


@public
def load_teacher(arch: str, task) -> nn.Module:
    """A pretrained network for the images of `task`: in eval mode, frozen, on the best device.

    Any other `nn.Module` that takes the task's images is a teacher too; it needs no loading.

    - like "shapes": trained by this project, in `data/teachers/`; `data/README.md` has the command.
    - like "cifar10": "resnet20", "resnet32", "resnet44", "resnet56" of He et al. 2016, of Y. Idelbayev
      (github.com/akamaster/pytorch_resnet_cifar10, BSD-2), through `torch.hub`.
    - like "imagenette" or "imagenet": the classifiers of `torchvision.models` with IMAGENET1K_V1 weights.

    Raises:
        TypeError: `task` is not a task.
        ValueError: no such network; a task with classes of its own; the SHA-256 of the weights is wrong.
        FileNotFoundError: the weights are not there and could not be downloaded; says where to put them.

    >>> teacher = fsc.load_teacher("resnet20", fsc.load_task("shapes"))
    """
    if not hasattr(task, "like"):
        example = f'load_teacher("{arch}", load_task("cifar10"))'
        raise TypeError(f"task must be a task, got {task!r}.\n  Write {example}.")
    if task.classes != builtin_task(task.like).classes:
        raise ValueError(
            f"the task has {len(task.classes)} classes of its own ({', '.join(task.classes[:5])}, ...); "
            f"the networks for {task.like} name other things.\n"
            f"  Load the pictures as a flat folder without labels (pruning and recovery need none),\n"
            f"  name the class folders as {task.like} does, or train a network: any nn.Module is a teacher."
        )
    load = {"shapes": _shipped, "cifar10": _published, "cifar100": _unknown}.get(task.like, _torchvision)
    return load(arch).eval().requires_grad_(False).to(best_device())


def _shipped(arch: str) -> nn.Module:
    from safetensors.torch import load_file

    sums, path = (data_dir() / "teachers" / file for file in ("SHA256SUMS", f"{arch}.safetensors"))
    remedy = "Bring it back with `git checkout data/teachers`, or train it with `make teachers`."
    expected = {}
    if sums.is_file():
        expected = dict(line.split()[::-1] for line in sums.read_text().splitlines())  # file -> SHA-256
        _check_known(arch, "shapes", [Path(name).stem for name in expected if Path(name).stem in NETS])
    for file in (sums, path):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there.\n  {remedy}")
    _check_sha256(path, expected[path.name], remedy)
    net = NETS[arch](len(builtin_task("shapes").classes))
    net.load_state_dict(load_file(path))
    return net


def _published(arch: str) -> nn.Module:
    _check_known(arch, "cifar10", CIFAR10_FILES)
    url, net = CIFAR10_URL + CIFAR10_FILES[arch], NETS[arch](10)
    load = torch.hub.load_state_dict_from_url
    state = _from_hub(url, lambda: load(url, map_location="cpu", check_hash=True, weights_only=True))
    state = state.get("state_dict", state)
    # They were saved from a DataParallel, which puts "module." in front of every name.
    net.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return net


def _unknown(arch: str) -> nn.Module:
    raise ValueError(
        f'asked for "{arch}" on CIFAR-100; no published CIFAR-100 weights are known here.\n'
        f"  Any nn.Module that takes the task's images is a teacher: train one, or load your own."
    )


def _torchvision(arch: str) -> nn.Module:
    from torchvision import models

    _check_known(arch, "ImageNet", models.list_models(module=models))
    choices = models.get_model_weights(arch).__members__
    if "IMAGENET1K_V1" not in choices:
        raise ValueError(
            f'torchvision has no IMAGENET1K_V1 weights for "{arch}", only {", ".join(choices)}.\n'
            f'  Load it yourself: torchvision.models.get_model("{arch}", weights=...) is a teacher as it is.'
        )
    weights, kind = choices["IMAGENET1K_V1"], builtin_task("imagenet")
    mean, std = (tuple(three) for three in (weights.transforms().mean, weights.transforms().std))
    if (mean, std) != (kind.mean, kind.std):
        raise ValueError(
            f'"{arch}" was trained on images normalised in another way than the task\'s.\n'
            f"  Its mean {mean}, std {std}; the task's {kind.mean}, {kind.std}.\n"
            f"  Choose another network."
        )
    return _from_hub(weights.url, lambda: models.get_model(arch, weights=weights))


def _from_hub(url: str, load):
    """The result of `load`, which reads `url` through torch.hub; a file in its cache is checked first.

    The name of the file holds the beginning of its SHA-256. torch.hub checks it only while it downloads.
    """
    path = Path(torch.hub.get_dir()).expanduser() / "checkpoints" / url.rsplit("/", 1)[1]
    if path.exists():
        beginning = torch.hub.HASH_REGEX.search(path.name)[1]
        _check_sha256(path, beginning, "Delete it; the next call downloads it again.")
    try:
        return load()
    except (OSError, RuntimeError, HTTPException) as err:
        if path.exists():  # the file is there and whole, so the error is another one and says so itself
            raise
        raise FileNotFoundError(
            f"the weights {path.name} are not here, and the download failed: {err}\n"
            f"  Expected: {path}\n"
            f"  Without a network, fetch {url}\n"
            f"  elsewhere and put it there, under this name. The variable TORCH_HOME moves the folder."
        ) from err


def _check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Compare the SHA-256 of a file with the expected one, or with its first digits."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(
            f"{path} is damaged or another file.\n"
            f"  SHA-256 expected: {expected}{'' if len(expected) == 64 else '...'}\n"
            f"  SHA-256 found:    {found} ({path.stat().st_size:,} bytes)\n"
            f"  {remedy}"
        )


def _check_known(arch: str, what: str, known) -> None:
    if arch not in known:
        listed = ", ".join(known) if len(known) <= 20 else "those of torchvision.models.list_models()"
        raise ValueError(
            f'no network "{arch}" for {what}.{nearest(arch, known)}\n'
            f"  Known: {listed}.\n  Any nn.Module that takes the task's images is a teacher too."
        )

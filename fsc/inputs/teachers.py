"""Pretrained networks in: shipped with the package, published for CIFAR-10, torchvision's; checked by their SHA-256."""

import hashlib
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from fsc.arguments import nearest
from fsc.inputs.builtin_tasks import kind_of
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
    - like "cifar10": "resnet20", "resnet32", "resnet44", "resnet56" of He et al. 2016, trained by Y. Idelbayev
      (github.com/akamaster/pytorch_resnet_cifar10, BSD-2), through `torch.hub`.
    - like "imagenette" or "imagenet": the classifiers of `torchvision.models`, with their IMAGENET1K_V1 weights.

    Args:
        arch: which network.
        task: from `load_task`; its `like` says which weights.

    Raises:
        ValueError: no such network for these images; classes of the task's own, which no published network names;
            weights whose SHA-256 is not the expected one.
        FileNotFoundError: weights that are not there and could not be downloaded; says which file is expected where.
    """
    if not hasattr(task, "like"):
        raise TypeError(
            f"load_teacher: task must be a task, got {task!r}.\n"
            f'  Write load_teacher("{arch}", load_task("cifar10")).'
        )
    if task.classes != kind_of(task.like).classes:
        raise ValueError(
            f"load_teacher: the task has {len(task.classes)} classes of its own ({', '.join(task.classes[:5])}, ...); "
            f"the networks for {task.like} name other things.\n"
            f"  Load the pictures as a flat folder, without labels (pruning and recovery need none), name the class\n"
            f"  folders as {task.like} does, or train a network of your own: any nn.Module is a teacher."
        )
    load = {"shapes": _shipped, "cifar10": _published, "cifar100": _unknown}.get(task.like, _torchvision)
    return load(arch).eval().requires_grad_(False).to(best_device())


def _shipped(arch: str) -> nn.Module:
    from safetensors.torch import load_file

    folder = data_dir() / "teachers"
    if not (folder / "SHA256SUMS").is_file():
        raise FileNotFoundError(
            f"load_teacher: {folder / 'SHA256SUMS'} is not there, and the shipped teachers are listed in it.\n"
            f"  Bring it back with `git checkout data/teachers`, or train them with `make teachers`."
        )
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    known = [Path(name).stem for name in sums if Path(name).stem in NETS]
    if arch not in known:
        raise _no_such(arch, "shapes", known)
    path = folder / f"{arch}.safetensors"
    remedy = "Bring it back with `git checkout data/teachers`, or train it with `make teachers`."
    if not path.is_file():
        raise FileNotFoundError(f"load_teacher: {path} is not there.\n  {remedy}")
    _check_sha256(path, sums[path.name], remedy)
    return _filled(NETS[arch](len(kind_of("shapes").classes)), load_file(path))


def _published(arch: str) -> nn.Module:
    if arch not in CIFAR10_FILES:
        raise _no_such(arch, "cifar10", CIFAR10_FILES)
    url = CIFAR10_URL + CIFAR10_FILES[arch]

    def load() -> dict:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)

    state = _from_hub(url, load)
    state = state.get("state_dict", state)
    # They were saved from a DataParallel, which puts "module." before every name.
    return _filled(NETS[arch](10), {name.removeprefix("module."): tensor for name, tensor in state.items()})


def _unknown(arch: str) -> nn.Module:
    raise ValueError(
        f'load_teacher: asked for "{arch}" on CIFAR-100; no published CIFAR-100 weights are known here.\n'
        f"  Any nn.Module that takes the task's images is a teacher: train one, or load your own."
    )


def _torchvision(arch: str) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if arch not in known:
        raise _no_such(arch, "ImageNet", known)
    choices = models.get_model_weights(arch).__members__
    if "IMAGENET1K_V1" not in choices:
        raise ValueError(
            f'load_teacher: torchvision has no IMAGENET1K_V1 weights for "{arch}", only {", ".join(choices)}.\n'
            f'  Load it yourself: torchvision.models.get_model("{arch}", weights=...) is a teacher as it is.'
        )
    weights, kind = choices["IMAGENET1K_V1"], kind_of("imagenet")
    preparation = weights.transforms()
    if (tuple(preparation.mean), tuple(preparation.std)) != (kind.mean, kind.std):
        raise ValueError(
            f'load_teacher: "{arch}" was trained on images normalised in another way than the task\'s.\n'
            f"  Its mean {tuple(preparation.mean)}, std {tuple(preparation.std)}; the task's {kind.mean}, {kind.std}.\n"
            f"  Choose another network."
        )
    return _from_hub(weights.url, lambda: models.get_model(arch, weights=weights))


def _from_hub(url: str, load):
    """What `load` makes of the file at `url`, which torch.hub keeps; a file already kept is checked first.

    torch.hub checks the SHA-256, of which the file's name holds the beginning, only while it downloads.
    """
    path = Path(torch.hub.get_dir()).expanduser() / "checkpoints" / url.rsplit("/", 1)[1]
    if path.exists():
        prefix = torch.hub.HASH_REGEX.search(path.name)[1]
        _check_sha256(path, prefix, "Delete it; the next call downloads it again.")
    try:
        return load()
    except (OSError, RuntimeError, HTTPException) as err:
        if path.exists():       # the file is there and whole: something else went wrong, and says so itself
            raise
        raise FileNotFoundError(
            f"load_teacher: the weights {path.name} are not here, and the download failed: {err}\n"
            f"  Expected: {path}\n"
            f"  Without a network, fetch {url}\n"
            f"  elsewhere and place it there, under this name; the folder follows the environment variable TORCH_HOME."
        ) from err


def _check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Hold the file against the whole SHA-256 or its first digits."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(
            f"load_teacher: {path} is damaged or another file.\n"
            f"  SHA-256 expected: {expected}{'' if len(expected) == 64 else '...'}\n"
            f"  SHA-256 found:    {found} ({path.stat().st_size:,} bytes)\n"
            f"  {remedy}"
        )


def _filled(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    net.load_state_dict(state)
    return net


def _no_such(arch: str, what: str, known) -> ValueError:
    listed = ", ".join(known) if len(known) <= 20 else f"{len(known)} in all: torchvision.models.list_models()"
    return ValueError(
        f'load_teacher: no network "{arch}" for {what}.{nearest(arch, known)}\n'
        f"  Known: {listed}.\n"
        f"  Any nn.Module that takes the task's images is a teacher too."
    )

"""Teachers: the right weights in the right network, SHA-256 checked, and the errors if they are missing."""

import hashlib
import re
import types
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from fsc.inputs import shapes, teachers
from fsc.inputs.builtin_tasks import CIFAR10, builtin_task
from fsc.inputs.nets import NETS
from fsc.inputs.tasks import load_task
from fsc.inputs.teachers import load_teacher
from fsc.runtime import best_device, data_dir


def task_like(like: str, classes: tuple[str, ...] | None = None):
    """As much of a task as load_teacher looks at."""
    return types.SimpleNamespace(like=like, classes=classes or builtin_task(like).classes)


def random_net(arch: str, seed: int = 0) -> nn.Module:
    """A net none of whose weights has its default value."""
    net = NETS[arch](10)
    rng = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=rng) * 0.2 + 0.05)
    return net


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A data folder with two teachers and their sums, as `sha256sum` writes them."""
    folder = tmp_path / "teachers"
    folder.mkdir()
    lines = []
    for arch in ("resnet20", "vgg9"):
        path = folder / f"{arch}.safetensors"
        save_file(random_net(arch).state_dict(), path)
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
    monkeypatch.setattr(teachers, "data_dir", lambda: tmp_path)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of torch.hub, and no network."""

    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    monkeypatch.setattr(urllib.request, "urlopen", fail)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def place(folder: Path, state: dict, name: str = "resnet20") -> str:
    """Save weights in the cache under a name that holds the beginning of their SHA-256."""
    path = folder / "new.th"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(folder / f"{name}-{digest[:8]}.th").name


def images(task) -> Tensor:
    return torch.randn(2, 3, *builtin_task(task.like).size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", ["resnet20", "vgg9"])
def test_a_shipped_teacher_has_the_stored_weights_and_is_frozen_and_in_eval_mode(shipped, arch):
    task = load_task("shapes")
    teacher = load_teacher(arch, task)
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert {p.device for p in teacher.parameters()} == {torch.empty(0, device=best_device()).device}
    x = images(task)
    with torch.no_grad():
        found = teacher(x.to(best_device())).cpu()
        torch.testing.assert_close(found, random_net(arch).eval()(x), atol=1e-4, rtol=1e-4)


def test_a_shipped_file_with_another_hash_is_refused(shipped):
    path = shipped / "resnet20.safetensors"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1000])
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    words = (
        f"load_teacher: {path} is damaged or another file.\n  SHA-256 expected: {expected}\n"
        f"  SHA-256 found:    {found} ({path.stat().st_size:,} bytes)\n"
        f"  Bring it back with `git checkout data/teachers`, or train it with `make teachers`."
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        load_teacher("resnet20", task_like("shapes"))


def test_missing_shipped_files_are_named_with_the_remedy(shipped):
    (shipped / "vgg9.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="vgg9.safetensors is not there.\n  Bring .*`make teachers`"):
        load_teacher("vgg9", task_like("shapes"))
    (shipped / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match="SHA256SUMS is not there.*\n  Bring it .*`make teachers`"):
        load_teacher("vgg9", task_like("shapes"))


@pytest.mark.parametrize(
    "like, arch, words",
    [
        ("shapes", "resnet50", 'no network "resnet50" for shapes. Did you mean "resnet20"?\n  Known:'),
        ("shapes", "resnet56", "Known: resnet20, vgg9."),                # built by nets, but not shipped
        ("cifar10", "resnet22", "Known: resnet20, resnet32, resnet44, resnet56.\n  Any nn.Module"),
        ("cifar100", "resnet20", 'asked for "resnet20" on CIFAR-100; no published CIFAR-100 weights'),
        ("imagenet", "resnet55", 'no network "resnet55" for ImageNet. Did you mean "resnet50"?'),
        ("imagenet", "fcn_resnet50", 'no network "fcn_resnet50" for ImageNet.'),
        ("imagenette", "vit_h_14", 'no IMAGENET1K_V1 weights for "vit_h_14", only IMAGENET1K_SWAG_E2E_V1'),
        ("imagenet", "efficientnet_v2_l", "normalised in another way than the task's.\n  Its mean (0.5, 0.5"),
    ],
)
def test_a_network_that_is_not_there_is_refused_with_those_that_are(shipped, hub, like, arch, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        load_teacher(arch, task_like(like))


@pytest.mark.parametrize("like", ["shapes", "cifar10", "imagenet"])
def test_a_task_with_classes_of_its_own_has_no_ready_teacher(shipped, like):
    words = f"2 classes of its own (cup, fork, ...); the networks for {like} name other things.\n  Load"
    with pytest.raises(ValueError, match=re.escape(words)):
        load_teacher("resnet20", task_like(like, ("cup", "fork")))


def test_the_name_of_a_task_is_no_task():
    with pytest.raises(TypeError, match="load_teacher: task must be a task, got 'cifar10'"):
        load_teacher("resnet20", "cifar10")


@pytest.mark.parametrize("wrapped", [False, True])
def test_published_weights_lose_the_prefix_of_dataparallel(hub, monkeypatch, wrapped):
    net = random_net("resnet32")
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    name = place(hub, {"state_dict": state, "best_prec1": 92.6} if wrapped else state)
    monkeypatch.setitem(teachers.CIFAR10_FILES, "resnet32", name)
    x = images(task_like("cifar10"))
    with torch.no_grad():
        found = load_teacher("resnet32", task_like("cifar10"))(x.to(best_device())).cpu()
        torch.testing.assert_close(found, net.eval()(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("like, arch", [("cifar10", "resnet20"), ("imagenet", "resnet18")])
def test_a_damaged_file_in_the_cache_is_refused_before_it_is_read(hub, like, arch):
    name = "resnet20-12fca82f.th" if like == "cifar10" else "resnet18-f37072fd.pth"
    (hub / name).write_bytes(b"cut short")
    found = hashlib.sha256(b"cut short").hexdigest()
    words = (
        f"{hub / name} is damaged or another file.\n  SHA-256 expected: {name[9:17]}...\n"
        f"  SHA-256 found:    {found} (9 bytes)\n  Delete it; the next call downloads it again."
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        load_teacher(arch, task_like(like))
    assert (hub / name).read_bytes() == b"cut short"


def test_weights_that_need_pickle_are_not_run(hub, monkeypatch):
    monkeypatch.setitem(teachers.CIFAR10_FILES, "resnet20", place(hub, {"state_dict": Path("run me")}))
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_teacher("resnet20", task_like("cifar10"))


@pytest.mark.parametrize(
    "like, arch, name, host",
    [
        ("cifar10", "resnet44", "resnet44-014dd654.th", "https://github.com/akamaster/pytorch_resnet_cifar10/raw/"),
        ("cifar10", "resnet56", "resnet56-4bfd9763.th", "https://github.com/akamaster/pytorch_resnet_cifar10/raw/"),
        ("imagenet", "resnet34", "resnet34-b627a593.pth", "https://download.pytorch.org/models/"),
        ("imagenette", "resnet50", "resnet50-0676ba61.pth", "https://download.pytorch.org/models/"),
    ],
)
def test_without_a_network_the_expected_file_and_its_place_are_named(hub, like, arch, name, host):
    words = rf"{name} are not here.*Name or service.*\n  Expected: {hub / name}\n  Without .*{host}.*{name}\n"
    with pytest.raises(FileNotFoundError, match=words) as caught:
        load_teacher(arch, task_like(like))
    assert isinstance(caught.value.__cause__, URLError) and list(hub.iterdir()) == []


def test_a_download_with_another_hash_is_refused_and_not_kept(hub, monkeypatch):
    def other_file(*_, **__):
        import io

        body = io.BytesIO(b"<html>not found</html>")
        body.info = lambda: types.SimpleNamespace(get_all=lambda _: None)
        return body

    monkeypatch.setattr(torch.hub, "urlopen", other_file)
    with pytest.raises(FileNotFoundError, match='invalid hash value \\(expected "12fca82f"'):
        load_teacher("resnet20", task_like("cifar10"))
    assert list(hub.iterdir()) == []


def test_imagenet_teachers_take_the_first_weights_and_not_the_default(hub, monkeypatch):
    asked = {}

    def build(arch, weights):
        asked[arch] = weights
        return nn.Linear(1, 1)

    monkeypatch.setattr(models, "get_model", build)
    for arch in ("resnet50", "mobilenet_v2"):
        load_teacher(arch, task_like("imagenette"))
    assert asked == {
        "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
        "mobilenet_v2": models.MobileNet_V2_Weights.IMAGENET1K_V1,
    }


def test_every_torchvision_weight_file_carries_the_beginning_of_its_hash():
    for arch in models.list_models(module=models):
        weights = models.get_model_weights(arch).__members__.get("IMAGENET1K_V1")
        if weights is not None:
            assert len(torch.hub.HASH_REGEX.search(weights.url.rsplit("/", 1)[1])[1]) >= 8, arch


def test_every_teacher_that_is_shipped_loads_and_all_are_under_10_megabytes():
    task = load_task("shapes")
    files = sorted((data_dir() / "teachers").glob("*.safetensors"))
    listed = [line.split()[1] for line in (data_dir() / "teachers" / "SHA256SUMS").read_text().splitlines()]
    assert sorted(listed) == [path.name for path in files]
    assert {"resnet20", "resnet56", "vgg9", "mobilenet"} <= {path.stem for path in files}
    assert sum(path.stat().st_size for path in files) < 10_000_000
    some = task.test.subset(range(100))  # how well they score on all is held where the READMEs are
    for path in files:
        teacher = load_teacher(path.stem, task)
        with torch.no_grad():
            logits = teacher(some.images.to(best_device())).cpu()
        assert (logits.argmax(1) == some.labels).double().mean() > 0.8, path.stem
        assert logits.shape == (100, len(shapes.CLASSES))


def forward_by_hand(state: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """The CIFAR ResNet as He et al. write it down, straight from the published tensors."""

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"module.{conv}.weight"], stride=stride, padding=1)
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"module.{bn}.{part}"] for part in parts), training=False, eps=1e-5)

    x = conv_bn(x, "conv1", "bn1").relu()
    for stage in (1, 2, 3):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            h = conv_bn(conv_bn(x, f"{at}.conv1", f"{at}.bn1", stride).relu(), f"{at}.conv2", f"{at}.bn2")
            if stride == 2:  # option A: every other pixel, zeros for new channels
                small = x[:, :, ::2, ::2]
                zeros = torch.zeros_like(small[:, : small.shape[1] // 2])
                x = torch.cat([zeros, small, zeros], 1)
            x = (h + x).relu()
    return F.linear(x.mean((2, 3)), state["module.linear.weight"], state["module.linear.bias"])


@pytest.mark.real
@pytest.mark.parametrize("arch, blocks", [("resnet20", 3), ("resnet32", 5)])
def test_a_published_teacher_is_right_on_nine_of_ten_real_images_as_by_hand(real_data, arch, blocks):
    task = load_task("folder", real_data / "cifar10-subset", like="cifar10")
    teacher = load_teacher(arch, task).cpu()
    with torch.no_grad():
        logits = torch.cat([teacher(x) for x, _ in task.test.batches(64)])
    assert task.classes == CIFAR10
    assert 0.90 <= (logits.argmax(1) == task.test.labels).double().mean() <= 0.95

    path = Path(torch.hub.get_dir()) / "checkpoints" / teachers.CIFAR10_FILES[arch]
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    reference = forward_by_hand(state, task.test.images[:64], blocks)
    torch.testing.assert_close(logits[:64], reference, atol=1e-5, rtol=1e-5)

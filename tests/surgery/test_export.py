"""`torch.export` takes students of every kind; the exported program computes what the student computes."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fsc
from fsc.runtime import quiet


class Plain(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Gated(nn.Module):
    def __init__(self, c, hidden):
        super().__init__()
        self.widen, self.bn1 = nn.Conv2d(c, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.look, self.gate = nn.Conv2d(hidden, 4, 1), nn.Conv2d(4, hidden, 1)
        self.narrow, self.bn2 = nn.Conv2d(hidden, c, 1, bias=False), nn.BatchNorm2d(c)

    def forward(self, x):
        y = F.silu(self.spread(F.relu(self.bn1(self.widen(x)))))
        gate = self.gate(F.relu(self.look(y.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.bn2(self.narrow(y * gate))


class Net(nn.Module):
    """3x3 blocks, gates around depthwise convs, a concatenation, two strides: the parts of usual CNNs."""

    def __init__(self):
        super().__init__()
        self.stem, self.early = nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(Plain(8), Plain(8))
        self.down, self.side = nn.Conv2d(8, 10, 3, 2, 1, bias=False), nn.Conv2d(8, 6, 1, 2)
        self.bn, self.late = nn.BatchNorm2d(10), nn.Sequential(Gated(16, 24), Gated(16, 24))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.early(F.relu(self.stem(x)))
        x = torch.cat([F.relu(self.bn(self.down(x))), self.side(x)], 1)
        return self.head(self.late(x).mean((2, 3)))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # not the identity that a new one is
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def pruned_and_recovered(teacher, images):
    return fsc.fskd(teacher, fsc.prune_filters(teacher, 0.5), images, progress=quiet)


def all_at_once(teacher, images):
    student = fsc.factorize(fsc.prune_filters(teacher, 0.5), 0.3)
    student = fsc.drop_blocks(student, ["early.1"])
    student = fsc.fskd(teacher, student, images, progress=quiet)
    return fsc.mir(teacher, student, images, steps=2, progress=quiet)


STUDENTS = {
    "filters pruned": lambda teacher, images: fsc.prune_filters(teacher, 0.5),
    "coupled channels pruned": lambda teacher, images: fsc.prune_filters(teacher, 0.5, coupled=True),
    "svd": lambda teacher, images: fsc.factorize(teacher, 0.5, scheme="svd"),
    "spatial": lambda teacher, images: fsc.factorize(teacher, 0.3, scheme="spatial"),
    "decouple": lambda teacher, images: fsc.factorize(teacher, 0.3, scheme="decouple"),
    "blocks dropped": lambda teacher, images: fsc.drop_blocks(teacher, ["early.1", "late.0"]),
    "recovered by fskd": pruned_and_recovered,
    "pruned, factorized, shortened, recovered": all_at_once,
}


@pytest.fixture(scope="module", params=STUDENTS)
def student(request, teacher, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these say of few filters and few rows, other tests hold
        return STUDENTS[request.param](teacher, images)


def exported(student, images, **how):
    return torch.export.export(student, (images[:2],), **how)


def relative_error(found, expected):
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def test_the_exported_program_computes_what_the_student_does_on_any_number(student, images, tmp_path):
    program = exported(student, images, dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
    torch.export.save(program, tmp_path / "student.pt2")
    for run in (program.module(), torch.export.load(tmp_path / "student.pt2").module()):
        for n in (1, 2, 48):
            assert relative_error(run(images[:n]), student(images[:n])) <= 1e-5


def test_the_exported_program_is_as_small_as_the_student(teacher, images):
    program = exported(pruned_and_recovered(teacher, images), images)
    sizes = [program.state_dict[name].numel() for name in program.graph_signature.parameters]
    assert sum(sizes) == fsc.cost(fsc.prune_filters(teacher, 0.5), images).params


def test_a_student_loaded_from_its_file_exports_as_the_one_that_was_saved(teacher, images, tmp_path):
    student = pruned_and_recovered(teacher, images)
    loaded = fsc.load(fsc.save(student, tmp_path / "s"), teacher)
    found, expected = (exported(net, images).module()(images[:2]) for net in (loaded, student))
    assert torch.equal(found, expected)


def test_a_network_that_fx_has_rewritten_is_pruned_and_exported_as_it_was(teacher, images):
    student = fsc.prune_filters(torch.fx.symbolic_trace(teacher), 0.5)
    wanted = fsc.prune_filters(teacher, 0.5)(images[:2])
    assert relative_error(exported(student, images).module()(images[:2]), wanted) <= 1e-5

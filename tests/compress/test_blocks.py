"""Block dropping: which blocks are found, what the net without them computes, and what is refused."""

import copy

import pytest
import torch
import torchvision
from helpers.random_nets import Grouped, Inverted, Residual, random_nets
from helpers.small_nets import head
from hypothesis import given
from torch import nn

import fsc
from fsc.compress.blocks import without_blocks
from fsc.inputs.nets import ResNet
from fsc.runtime import fingerprint
from fsc.surgery import exactness
from fsc.surgery.exactness import NotExact

# The lists of the PRACTISE authors' code. In ResNet-34 they leave out layer1.0, which keeps its shape too.
RESNET_50 = [f"layer{i}.{j}" for i, count in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(1, count)]
RESNET_34 = ["layer1.0", *RESNET_50]
MOBILENET_V2 = [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]

# From torchvision's sources: the blocks of each stage, without the first where it changes width or size.
TORCHVISION = {
    "resnet34": RESNET_34,
    "resnet50": RESNET_50,
    "resnext50_32x4d": RESNET_50,
    "mobilenet_v2": MOBILENET_V2,
    "mobilenet_v3_small": [f"features.{i}" for i in (3, 5, 6, 8, 10, 11)],
    "convnext_tiny": [f"features.{i}.{j}" for i, n in ((1, 3), (3, 3), (5, 9), (7, 3)) for j in range(n)],
    "efficientnet_b0": [f"features.{i}.{j}" for i, n in enumerate((2, 2, 3, 3, 4), 2) for j in range(1, n)],
    "regnet_y_400mf": [
        f"trunk_output.block{i}.block{i}-{j}" for i, n in ((2, 3), (3, 6), (4, 6)) for j in range(1, n)
    ],
    "mnasnet0_5": [f"layers.{i}.{j}" for i, n in enumerate((3, 3, 3, 2, 4), 8) for j in range(1, n)],
}


def build(arch):
    torch.manual_seed(0)
    return torchvision.models.get_model(arch, weights=None).eval()


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return ResNet(2).eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# -- found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", TORCHVISION)
def test_the_blocks_of_torchvisions_families_are_found(arch):
    assert fsc.droppable_blocks(build(arch), example=torch.randn(1, 3, 64, 64)) == TORCHVISION[arch]


@given(net=random_nets())
def test_in_random_nets_the_blocks_built_with_a_shortcut_of_one_shape_are_found(net):
    wanted = [
        f"blocks.{i}" for i, block in enumerate(net.blocks)
        if isinstance(block, Grouped | Inverted)
        or (isinstance(block, Residual) and isinstance(block.down, nn.Identity))
    ]
    if wanted:
        assert fsc.droppable_blocks(net, example=torch.randn(1, 3, 12, 12).double()) == wanted
    else:
        with pytest.raises(ValueError, match="no block of this RandomNet can be dropped"):
            fsc.droppable_blocks(net, example=torch.randn(1, 3, 12, 12).double())


@pytest.mark.parametrize("arch, why", [
    ("densenet121", r"reads \d+ things from outside"), ("vgg11", "keeps the shape"),
])
def test_nets_without_such_blocks_are_refused_with_the_reason(arch, why):
    with pytest.raises(ValueError, match=why) as err:
        fsc.droppable_blocks(build(arch), example=torch.randn(1, 3, 64, 64))
    assert "drop_blocks takes any module by name" in str(err.value)


def test_a_gate_is_no_block():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True)))

    net = nn.Sequential(nn.Conv2d(3, 8, 3), Gate(), *head(8, 2)).eval()
    with pytest.raises(ValueError, match="1 keeps the shape of what it reads, but adds nothing to it"):
        fsc.droppable_blocks(net)
    assert fsc.cost(fsc.drop_blocks(net, ["1"]), torch.randn(1, 3, 8, 8)).params == 3 * 8 * 9 + 8 + 8 * 2 + 2


def test_what_is_dropped_is_no_longer_a_block(teacher):
    student = fsc.drop_blocks(teacher, ["layer1.0", "layer3.1"])
    assert fsc.droppable_blocks(student) == ["layer1.1", "layer2.1"]


def test_the_old_ways_to_ask_for_blocks_still_work_and_name_the_new_ones(teacher, images):
    names = fsc.droppable_blocks(teacher, example=images)
    with pytest.warns(FutureWarning, match="example="):
        assert fsc.droppable_blocks(teacher, images) == names
    with pytest.warns(FutureWarning, match="teacher="):
        assert fsc.droppable_blocks(net=teacher) == names


# -- dropped ------------------------------------------------------------------------------------------------


def test_a_dropped_block_is_the_net_written_without_it(teacher, images):
    student = fsc.drop_blocks(teacher, ["layer1.0", "layer2.1"])
    by_hand = copy.deepcopy(teacher)
    del by_hand.layer1[0], by_hand.layer2[1]
    assert torch.equal(student(images), by_hand(images))
    assert fsc.cost(student, images) == fsc.cost(by_hand, images)
    left = {k: v for k, v in teacher.state_dict().items() if not k.startswith(("layer1.0.", "layer2.1."))}
    assert student.state_dict().keys() == left.keys()
    assert all(torch.equal(tensor, left[name]) for name, tensor in student.state_dict().items())


@given(net=random_nets())
def test_every_found_block_of_a_random_net_can_be_dropped_alone_and_with_all_others(net):
    x = torch.randn(2, 3, 12, 12).double()
    try:
        names = fsc.droppable_blocks(net, example=x)
    except ValueError:
        return
    for some in (*([name] for name in names), names):
        student = fsc.drop_blocks(net, some, example=x)
        assert student(x).shape == net(x).shape
        assert all(isinstance(student.get_submodule(name), nn.Identity) for name in some)


def test_the_teacher_stays_and_the_student_can_be_saved(teacher, images, tmp_path):
    before = fingerprint(teacher)
    pruned = fsc.prune_filters(teacher.train(), 0.5)
    student = fsc.drop_blocks(pruned, ["layer2.1"])
    assert fingerprint(teacher) == before and teacher.training and not student.training
    assert [edit["edit"] for edit in fsc.recipe_of(student)] == ["prune_filters", "drop_blocks"]
    assert fsc.recipe_of(student)[1]["dropped"] == ["layer2.1"]
    again = fsc.load(fsc.save(student, tmp_path / "s.safetensors"), teacher)
    assert torch.equal(again(images), student(images))


def test_a_net_without_blocks_computes_what_the_student_does_with_the_teachers_own_weights(teacher, images):
    bypassed = without_blocks(teacher, ["layer2.1"])
    assert torch.equal(bypassed(images), fsc.drop_blocks(teacher, ["layer2.1"])(images))
    assert bypassed.conv1.weight is teacher.conv1.weight
    assert isinstance(teacher.layer2[1], type(teacher.layer2[0]))


def test_a_block_that_works_in_place_is_dropped_exactly():
    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.conv = nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x):
            return x + self.conv(self.act(x))

    net = nn.Sequential(nn.Conv2d(3, 6, 3), Before(), nn.ReLU(), *head(6))
    student, x = fsc.drop_blocks(net.eval(), ["1"]), torch.randn(2, 3, 8, 8)
    assert torch.equal(student(x), net[2:](net[0](x)))


# -- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names, words", [
    (["layer1.7"], r'no module "layer1\.7".*\n.*layer1\.1'),
    (["layer2.0"], r"layer2\.0 cannot be dropped: it makes \(1, 32, 16, 16\) of \(1, 16, 32, 32\)"),
    ([], "no names"),
    (["layer1.1", "layer1.0", "layer1.1"], r"more than once: layer1\.1"),
    (["layer1", "layer1.1"], r"layer1\.1 cannot be dropped: it lies inside layer1"),
    (["layer1.0.shortcut"], "it is nn.Identity already"),
    (["layer1.0.conv1", "pool"], r"pool cannot be dropped: it makes \(1, 64, 1, 1\)"),
])
def test_what_cannot_be_dropped_is_refused_by_name_and_reason(teacher, names, words):
    with pytest.raises(ValueError, match=words):
        fsc.drop_blocks(teacher, names)


def test_one_name_in_place_of_a_list_is_refused(teacher):
    with pytest.raises(TypeError, match=r"names are a list of strings"):
        fsc.drop_blocks(teacher, "layer1.1")


class Odd(nn.Module):
    """`twice` is called twice, `pair` reads two tensors, `leaky` makes two, `asked` needs its attribute."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.twice, self.asked, self.unused = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.pair, self.leaky = Pair(), Leaky()
        self.held = [self.unused]
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)))
        x, inner = self.leaky(self.pair(x, x.abs()))
        x = self.asked(x + inner) * self.asked.out_channels
        return self.head(x.mean((2, 3)))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, a, b):
        return a + self.conv(b)


class Leaky(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        inner = self.conv(x)
        return x + inner, inner


@pytest.mark.parametrize("name, words", [
    ("twice", "the forward calls it 2 times"),
    ("pair", "it reads 2 things from outside: .*abs"),
    ("leaky", r"2 things are read outside: leaky\.conv, add"),
    ("unused", "the forward computes nothing in it"),
])
def test_a_module_that_others_use_in_more_ways_is_refused(name, words):
    with pytest.raises(ValueError, match=f"{name} cannot be dropped: .*{words}"):
        fsc.drop_blocks(Odd().eval(), [name])


def test_a_forward_that_asks_more_of_a_block_than_to_be_called_is_refused():
    with pytest.raises(NotExact, match="does not run with nn.Identity for asked: .*out_channels"):
        fsc.drop_blocks(Odd().eval(), ["asked"])


def test_the_teacher_is_not_hooked_while_its_student_is_checked(monkeypatch):
    torch.manual_seed(0)
    teacher = ResNet(2).eval()
    seen = []
    run = exactness._run

    def look(net, example):
        seen.append(sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in teacher.modules()))
        return run(net, example)

    monkeypatch.setattr(exactness, "_run", look)
    fsc.drop_blocks(teacher, ["layer1.1"])
    assert seen == [0, 0]

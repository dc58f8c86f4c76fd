"""Fine-tuning and distillation do what plain loops do, the same for a seed, and touch nothing else."""

import copy
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.small_net import assert_same_weights, few_images, small_net, train_by_hand
from torch import nn

import fsc
from fsc.inputs.nets import NETS, VGG
from fsc.runtime import fingerprint, quiet

finetune, distill = (partial(function, progress=quiet) for function in (fsc.finetune, fsc.distill))


@pytest.fixture
def few():
    return few_images()


@pytest.fixture
def net():
    return small_net(seed=0).requires_grad_(False)


@pytest.fixture
def student():
    return small_net(seed=1)


def test_finetune_does_what_a_plain_training_loop_does(net, few):
    images, labels = few
    expected = copy.deepcopy(net).train().requires_grad_(True)
    train_by_hand(expected.parameters(), images, lambda x, rows: F.cross_entropy(expected(x), labels[rows]))
    found = finetune(net, net, images, labels, steps=10, lr=0.05, batch_size=4, seed=3)
    assert_same_weights(found, expected)


def test_finetune_learns_the_few_images():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    images = torch.randn(30, 3, 8, 8, generator=rng) * 0.3
    images[torch.arange(30), labels] += 1.0  # the class is the brightest colour
    net = small_net(seed=0)
    found = finetune(net, net, images, labels, steps=100, lr=0.1, batch_size=10)
    assert (found(images).argmax(1) == labels).float().mean() == 1.0


def test_teacher_and_student_are_left_as_they_were(net, few):
    teacher, student = copy.deepcopy(net).train(), net
    before = fingerprint(teacher), fingerprint(student)
    finetune(teacher, student, *few, steps=3)
    assert (fingerprint(teacher), fingerprint(student)) == before
    assert teacher.training and not student.training
    assert not any(p.requires_grad for p in student.parameters())
    assert all(p.grad is None for p in [*teacher.parameters(), *student.parameters()])


def test_what_comes_back_is_a_plain_trained_copy_with_the_recipe(net, few):
    net[0].weight.requires_grad_(True)
    net.fsc_recipe = {"teacher": "1234", "edits": [{"edit": "prune_filters"}]}
    found = finetune(net, net, *few, steps=3)
    assert type(found) is nn.Sequential and not any(module.training for module in found.modules())
    assert fingerprint(found) != fingerprint(net)
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in net.parameters()]
    assert all(p.grad is None and p.is_contiguous() for p in found.parameters())
    assert len(net.fsc_recipe["edits"]) == 1 and found.fsc_recipe["teacher"] == "1234"
    pruned, tuned = fsc.recipe_of(found)
    asked = {"steps": 3, "lr": 0.02, "batch_size": 64, "held_out": 0.0, "seed": 0}
    assert pruned == {"edit": "prune_filters"} and tuned.pop("report")[-1]["step"] == 3
    assert tuned == {"edit": "finetune", "asked": asked, "slices": {}}


def test_tuned_and_distilled_students_are_saved_and_load_again(tmp_path):
    torch.manual_seed(0)
    teacher = NETS["resnet20"](10).eval()
    pruned, images = fsc.prune_filters(teacher, 0.5), torch.randn(4, 3, 32, 32)
    tuned = finetune(teacher, pruned, images, torch.arange(4), steps=2)
    found = distill(teacher, tuned, images, steps=2, temperature=2)
    assert [edit["edit"] for edit in fsc.recipe_of(found)] == ["prune_filters", "finetune", "distill"]
    assert fsc.recipe_of(found)[-1]["asked"]["temperature"] == 2.0
    loaded = fsc.load(fsc.save(found, tmp_path / "s.safetensors"), teacher)
    assert fingerprint(loaded) == fingerprint(found) and fsc.recipe_of(loaded) == fsc.recipe_of(found)
    assert fsc.report_of(loaded, "finetune").equals(fsc.report_of(tuned))


def test_finetune_trains_inside_no_grad_too(net, few):
    with torch.no_grad():
        found = finetune(net, net, *few, steps=1)
    assert fingerprint(found) == fingerprint(finetune(net, net, *few, steps=1))


class Flattens(nn.Module):
    """Flattens by `view`, which takes NCHW only."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 3)

    def forward(self, x):
        return self.linear(self.conv(x).view(len(x), -1))


def test_a_net_that_counts_on_nchw_trains_too(few):
    net = Flattens()
    assert fingerprint(finetune(net, net, *few, steps=2)) != fingerprint(net)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_whole_numbers_do(net, few, dtype):
    images, labels = few
    found = [finetune(net, net, images, y, steps=2) for y in (labels, labels.to(dtype))]
    assert fingerprint(found[0]) == fingerprint(found[1])


def test_one_image_is_enough_where_no_batchnorm_learns_from_it(few):
    images, labels = few
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert fingerprint(finetune(net, net, images[:1], labels[:1], steps=1)) != fingerprint(net)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"labels": None}, TypeError,
         "finetune: labels must be a tensor of integers (10,), got NoneType.\n  Pass few.labels of few ="),
        ({"labels": [1] * 10}, TypeError, "finetune: labels must be a tensor of integers (10,), got list."),
        ({"labels": torch.zeros(10)}, TypeError,
         "finetune: labels must be a tensor of integers (10,), got a tensor of torch.float32."),
        ({"labels": torch.zeros(9, dtype=torch.long)}, ValueError,
         "finetune: 10 images and labels of shape (9,); asked for one label per image, (10,).\n  "
         "Take both from"),
        ({"labels": torch.full((10,), 3)}, ValueError,
         "finetune: labels run from 3 to 3; the classes are 0 .. 2.\n  Teacher and images"),
        ({"labels": torch.full((10,), -1)}, ValueError,
         "finetune: labels run from -1 to -1; the classes are 0 .. 2."),
        ({"images": torch.zeros(10, 3, 8, 8).byte()}, TypeError, "finetune: images are torch.uint8"),
        ({"images": torch.zeros(1, 3, 8, 8), "labels": torch.tensor([0])}, ValueError,
         "finetune: batches of one image (of 1) cannot train BatchNorm (1).\n  "
         "It would learn to normalise each image"),
        ({"batch_size": 1}, ValueError, "finetune: batches of one image (of 10) cannot train BatchNorm (1)."),
        ({"batch_size": 0}, ValueError,
         "finetune: steps=2000, batch_size=0, lr=0.02; asked for steps and batch_size >= 1, lr > 0.\n  "
         "The paper's"),
        ({"steps": 0}, ValueError, "finetune: steps=0, batch_size=64, lr=0.02; asked for"),
        ({"lr": 0.0}, ValueError, "finetune: steps=2000, batch_size=64, lr=0.0; asked for"),
        ({"student": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())[:1]}, ValueError,
         "finetune: for one image the teacher's output is (1, 3), the student's (1, 3, 1, 1).\n  They tell"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_remedy(net, few, change, error, words):
    asked = {"teacher": net, "student": net, "images": few[0], "labels": few[1]} | change
    with pytest.raises(error, match=re.escape(words)):
        finetune(**asked)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet"])
def test_every_kind_of_embedded_net_trains(name):
    torch.manual_seed(0)
    net = NETS[name](10)
    found = finetune(net, net, torch.randn(4, 3, 32, 32), torch.arange(4), steps=2)
    assert fingerprint(found) != fingerprint(net)
    assert [p.stride() for p in found.parameters()] == [p.stride() for p in net.parameters()]


def test_distill_does_what_a_plain_distillation_loop_does(net, student, few):
    images, _ = few
    expected = copy.deepcopy(student).train()

    def loss_of(batch, rows):
        p, q = (net(batch) / 3).softmax(1), (expected(batch) / 3).softmax(1)
        return 9 * (p * (p.log() - q.log())).sum(1).mean()                 # T^2 KL(teacher || student), T = 3

    train_by_hand(expected.parameters(), images, loss_of)
    found = distill(net, student, images, steps=10, lr=0.05, batch_size=4, temperature=3, seed=3)
    assert_same_weights(found, expected)


def test_distill_brings_the_student_to_the_teachers_answers(net, student, few):
    images, _ = few
    wanted = net(images).softmax(1)
    found = distill(net, student, images, steps=150, lr=0.05, temperature=1.0)
    before, after = ((model(images).softmax(1) - wanted).abs().mean() for model in (student, found))
    assert after < before / 3


def test_distill_trains_every_parameter_and_leaves_teacher_and_student_alone(net, student, few):
    teacher = copy.deepcopy(net).train()
    before = fingerprint(teacher), fingerprint(student)
    found = distill(teacher, student, few[0], steps=2)
    moved = {name for name, p in found.named_parameters() if not torch.equal(p, student.get_parameter(name))}
    assert moved == {name for name, _ in student.named_parameters()}
    assert (fingerprint(teacher), fingerprint(student)) == before  # the teacher's BN statistics too
    assert teacher.training and not found.training and all(p.grad is None for p in teacher.parameters())


def test_a_teacher_that_counts_on_nchw_distills_too(student, few):
    assert fingerprint(distill(Flattens(), student, few[0], steps=1)) != fingerprint(student)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"temperature": 0}, ValueError, "distill: temperature=0; asked for a number above 0.\n  It divides"),
        ({"temperature": -1.0}, ValueError, "distill: temperature=-1.0;"),
        ({"temperature": float("inf")}, ValueError, "distill: temperature=inf;"),
        ({"temperature": float("nan")}, ValueError, "distill: temperature=nan;"),
        ({"images": torch.zeros(10, dtype=torch.long)}, TypeError, "distill: images are torch.int64"),
        ({"images": torch.zeros(1, 3, 8, 8)}, ValueError,
         "distill: batches of one image (of 1) cannot train"),
        ({"lr": -1.0}, ValueError, "distill: steps=2000, batch_size=64, lr=-1.0; asked for"),
        ({"student": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))}, ValueError,
         "distill: for one image the teacher's output is (1, 3), the student's (1, 5).\n  They tell"),
    ],
)
def test_what_cannot_be_distilled_is_refused_with_the_remedy(net, few, change, error, words):
    asked = {"teacher": net, "student": net, "images": few[0]} | change
    with pytest.raises(error, match=re.escape(words)):
        distill(**asked)


@pytest.mark.gpu
def test_finetune_on_a_gpu_follows_the_teacher_and_spares_its_generator():
    teacher, student = VGG((8, "M", 8)).cuda(), VGG((8, "M", 4))
    before = torch.cuda.get_rng_state()
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    found = finetune(teacher, student, images, labels, steps=3, batch_size=4)
    assert all(p.device.type == "cuda" for p in found.parameters())
    assert all(p.device.type == "cpu" for p in student.parameters())
    assert torch.equal(torch.cuda.get_rng_state(), before)

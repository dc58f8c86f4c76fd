"""MiR: what a plain loop does, up to the feature and no further; then the teacher's head, bit for bit."""

import copy
import re
from functools import partial

import pytest
import torch
from helpers.small_net import assert_same_weights, feature_loss, few_images, small_net, train_by_hand
from torch import nn

import fsc
from fsc.inputs.nets import NETS
from fsc.recover.training import crop_and_flip
from fsc.runtime import fingerprint, quiet
from fsc.surgery.recipe import recipe_of

mir = partial(fsc.mir, progress=quiet)
HEAD = ("8.weight", "8.bias")


@pytest.fixture
def images():
    return few_images()[0]


@pytest.fixture
def teacher():
    return small_net(seed=0).requires_grad_(False)


@pytest.fixture
def student():
    return small_net(4, seed=1)


def history(net):
    edit = recipe_of(net)[-1]
    assert edit["edit"] == "mir" and edit["slices"] == {}
    return edit["report"]


def test_mir_does_what_a_plain_loop_over_the_features_does(teacher, student, images):
    expected = copy.deepcopy(student).train()

    def loss_of(batch, rows):
        return (expected[:6](batch) - teacher[:6](batch)).square().mean()

    losses = train_by_hand(expected[:6].parameters(), images, loss_of)
    expected[8].load_state_dict(teacher[8].state_dict())
    found = mir(teacher, student, images, steps=10, lr=0.05, batch_size=4, seed=3)
    assert_same_weights(found, expected)
    assert [row["loss"] for row in history(found)] == pytest.approx(losses, rel=1e-4)
    assert [row["lr"] for row in history(found)] == pytest.approx([0.05] * 4 + [0.005] * 4 + [0.0005] * 2)


def test_the_head_is_the_teachers_bit_for_bit_and_all_before_it_is_trained(teacher, student, images):
    found = mir(teacher, student, images, steps=2)
    moved = {name for name, p in found.named_parameters() if not torch.equal(p, student.get_parameter(name))}
    assert moved == {name for name, _ in student.named_parameters()}  # the head: replaced, not trained
    assert all(torch.equal(found.state_dict()[name], teacher.state_dict()[name]) for name in HEAD)


def test_a_student_equal_to_its_teacher_has_loss_0_and_stays_equal(teacher, images):
    found = mir(teacher, teacher, images, steps=20, bn="frozen")
    assert history(found)[0]["loss"] == 0
    # Weight decay pulls at it even so: 20 steps of lr 0.02 x 1e-4, a relative 4e-5 at most.
    assert (found(images) - teacher(images)).abs().max() <= 1e-4 * teacher(images).abs().max()


def test_the_gradient_is_that_of_finite_differences(teacher, student, images):
    teacher, student, images = teacher.double(), student.double(), images.double()
    found = mir(teacher, student, images, steps=1, lr=1e-3, bn="frozen")
    rng = torch.Generator().manual_seed(0)
    batch = crop_and_flip(images[torch.randperm(10, generator=rng)], rng)
    for place, index in ((0, (1, 2, 0, 1)), (1, (3,)), (4, (5, 2, 0, 0))):
        weight = student[place].weight.detach()
        step = (weight - found[place].weight.detach())[index] / 1e-3  # gradient + decay x weight
        here = weight[index].item()
        values = []
        for h in (1e-5, -1e-5):
            weight[index] = here + h
            values.append(feature_loss(student, teacher, batch))
        weight[index] = here
        assert step.item() == pytest.approx((values[0] - values[1]) / 2e-5 + 1e-4 * here, rel=1e-5)


@pytest.mark.parametrize("bn", ["train", "frozen", "re-estimated"])
def test_teacher_and_student_are_left_as_they_were(teacher, student, images, bn):
    teacher.train()
    before = fingerprint(teacher), fingerprint(student)
    found = mir(teacher, student, images, steps=3, bn=bn)
    assert (fingerprint(teacher), fingerprint(student)) == before  # the teacher's BN statistics too
    assert teacher.training and not any(module.training for module in [*student.modules(), *found.modules()])
    assert all(p.grad is None for net in (teacher, student, found) for p in net.parameters())
    assert all(p.is_contiguous() and p.requires_grad for p in found.parameters())
    assert type(found) is nn.Sequential


def test_batchnorm_learns_from_the_batches_or_stays_or_is_measured_anew(teacher, student, images):
    modes = ("train", "frozen", "re-estimated")
    norms = {bn: mir(teacher, student, images, steps=5, bn=bn) for bn in modes}
    assert not torch.equal(norms["train"][1].running_mean, student[1].running_mean)
    assert torch.equal(norms["frozen"][1].running_mean, student[1].running_mean)
    assert torch.equal(norms["frozen"][1].running_var, student[1].running_var)
    assert not torch.equal(norms["frozen"][1].weight, student[1].weight)
    seen = norms["re-estimated"][0](images)  # what the norm reads, all images
    assert torch.allclose(norms["re-estimated"][1].running_mean, seen.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(norms["re-estimated"][1].running_var, seen.var((0, 2, 3)), rtol=1e-4)
    assert torch.equal(norms["re-estimated"][0].weight, norms["train"][0].weight)
    assert norms["re-estimated"][1].momentum == student[1].momentum


def test_mir_brings_the_features_nearer_and_after_pooling_only_their_means(teacher, student, images):
    asked = {"steps": 150, "lr": 0.1, "bn": "frozen"}
    before = mir(teacher, student, images, **asked)
    after = mir(teacher, student, images, feature="after", **asked)
    assert feature_loss(before, teacher, images) < feature_loss(student, teacher, images) / 3
    pooled = slice(0, 7)
    assert feature_loss(after, teacher, images, pooled) < feature_loss(student, teacher, images, pooled) / 3
    assert feature_loss(before, teacher, images) < feature_loss(after, teacher, images)


def test_an_earlier_feature_leaves_all_behind_it_to_the_teacher(teacher, images):
    found = mir(teacher, small_net(seed=2), images, steps=2, feature="2")
    mine, theirs = found.state_dict(), teacher.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in (*HEAD, "4.weight"))


@pytest.mark.parametrize("arch", ["resnet20", "mobilenet", "vgg9"])
def test_pruned_students_keep_their_recipe_and_their_shapes_and_load_again(arch, tmp_path):
    torch.manual_seed(0)
    teacher = NETS[arch](10).eval()
    student = fsc.prune_filters(teacher, 0.5)
    found = mir(teacher, student, torch.randn(4, 3, 32, 32), steps=2)
    assert [edit["edit"] for edit in recipe_of(found)] == ["prune_filters", "mir"]
    assert len(recipe_of(student)) == 1
    assert [p.shape for p in found.parameters()] == [p.shape for p in student.parameters()]
    assert [p.stride() for p in found.parameters()] == [p.stride() for p in student.parameters()]
    loaded = fsc.load(fsc.save(found, tmp_path / "s.safetensors"), teacher)
    assert fingerprint(loaded) == fingerprint(found) and recipe_of(loaded) == recipe_of(found)


def test_students_with_blocks_gone_and_convs_split_learn_too():
    torch.manual_seed(0)
    teacher = NETS["resnet20"](10).eval()
    student = copy.deepcopy(teacher)
    student.layer3[2] = nn.Identity()                               # the very block that makes the feature
    student.layer1[0].conv1 = nn.Sequential(nn.Conv2d(16, 4, 3, padding=1, bias=False), nn.Conv2d(4, 16, 1))
    found = mir(teacher, student, torch.randn(4, 3, 32, 32), steps=2)
    assert isinstance(found.layer3[2], nn.Identity)
    assert torch.equal(found.linear.weight, teacher.linear.weight)
    for half in (0, 1):
        assert not torch.equal(found.layer1[0].conv1[half].weight, student.layer1[0].conv1[half].weight)


def test_one_image_is_enough_with_frozen_batchnorm(teacher, student, images):
    found = mir(teacher, student, images[:1], steps=1, bn="frozen")
    assert fingerprint(found) != fingerprint(student)


def test_mir_needs_no_images_per_batch_more_than_there_are(teacher, student, images):
    few = [fingerprint(mir(teacher, student, images[:3], steps=3, batch_size=b)) for b in (3, 64)]
    assert few[0] == few[1]


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"images": torch.zeros(10, dtype=torch.long)}, TypeError,
         "mir: images are a tensor of integers (10,); they look like labels, and mir needs none.\n  "
         "Pass few.images"),
        ({"images": fsc.load_task("shapes")}, TypeError,
         "mir: images must be a tensor (N, C, H, W), got Task.\n  Pass few = task.sample(50) or"),
        ({"images": torch.zeros(0, 3, 8, 8)}, ValueError, "mir: images have shape (0, 3, 8, 8); asked for"),
        ({"images": torch.zeros(4, 1, 8, 8)}, ValueError, "mir: this Sequential does not take images of"),
        ({"images": torch.zeros(1, 3, 8, 8)}, ValueError,
         "mir: batches of one image (of 1) cannot train BatchNorm (1).\n  "
         "It would learn to normalise each image"),
        ({"images": torch.zeros(2, 3, 8, 8), "held_out": 0.5}, ValueError,
         "Found 1 images to fit and batch_size=64."),
        ({"batch_size": 1, "bn": "re-estimated"}, ValueError,
         "Found 10 images to fit and batch_size=1. Use at least 2 images, in batches of at least 2; or mir "
         'with bn="frozen", which leaves'),
        ({"batch_size": 0}, ValueError, "mir: steps=2000, batch_size=0, lr=0.02; asked for"),
        ({"bn": "eval"}, ValueError, 'mir: bn="eval"; there are "train", "frozen" and "re-estimated".'),
        ({"held_out": 1}, ValueError, "mir: held_out=1 is no share in [0, 1)."),
        ({"held_out": 0.99}, ValueError, "mir: held_out=0.99 leaves none of 10 images to fit."),
        ({"feature": "layer4"}, ValueError, 'mir: feature="layer4" of this Sequential does not exist.'),
        ({"feature": "2"}, ValueError,
         "mir: the teacher's feature is 2 (1, 6, 8, 8), the student's 2 (1, 4, 8, 8).\n  "
         "A student mimics features of"),
        ({"student": small_net(classes=5)}, ValueError,
         "mir: the teacher's head does not fit the student: of 8.weight, behind the feature (5), the student "
         "has (5, 8), the teacher (3, 8).\n  The head is taken from the teacher: leave feature out, or"),
        ({"student": small_net()[:8]}, ValueError, "the student has none, the teacher (3, 8)."),
        ({"student": nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))},
         ValueError, "mir: nothing before the feature (0) of this Sequential has parameters to train."),
    ],
)  # fmt: skip
def test_what_cannot_be_mimicked_is_refused_with_the_remedy(teacher, student, images, change, error, words):
    asked = {"teacher": teacher, "student": student, "images": images} | change
    with pytest.raises(error, match=re.escape(words)):
        mir(**asked)


@pytest.mark.filterwarnings("ignore:prune_filters")
def test_a_student_that_gave_up_channels_of_the_feature_is_told_what_to_do():
    teacher = NETS["mobilenet"](10).eval()
    words = r"head\.2 \(1, 64, 8, 8\)[^~]*Prune without coupled=True, name another"
    with pytest.raises(ValueError, match=words):
        mir(teacher, fsc.prune_filters(teacher, 0.5, coupled=True), torch.randn(4, 3, 32, 32))


@pytest.mark.gpu
def test_mir_on_a_gpu_agrees_with_the_cpu():
    task = fsc.load_task("shapes")
    few, found = task.sample(50), []
    for device in ("cpu", "cuda"):
        teacher = fsc.load_teacher("resnet20", task).to(device)
        before = torch.cuda.get_rng_state()
        student = mir(teacher, fsc.prune_filters(teacher, 0.5), few.images, steps=20)
        assert torch.equal(torch.cuda.get_rng_state(), before)
        assert all(p.device.type == device and p.dtype == torch.float32 for p in student.parameters())
        found.append([row["loss"] for row in history(student)])
    # bfloat16 rounds features to 3 digits; the loss is a mean over 100,000 of their squared differences.
    assert found[1] == pytest.approx(found[0], rel=0.05)

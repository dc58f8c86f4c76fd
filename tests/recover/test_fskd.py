"""FSKD: the teacher is its own fixed point, one sweep equals many, the fit is merged, refusals in words."""

import copy
from functools import partial

import pytest
import torch
import torch_pruning
from helpers.probes import feature, odd_norms
from helpers.random_nets import random_nets
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fsc
from fsc.graph.tracing import trace
from fsc.inputs.nets import NETS, ResNet
from fsc.recover.sites import find_sites
from fsc.runtime import fingerprint, quiet

fskd, errors_of = (partial(function, progress=quiet) for function in (fsc.fskd, fsc.error_map))


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return odd_norms(ResNet(1))


@pytest.fixture
def images():
    return torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# -- exactness -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["block", "conv"])
def test_an_unpruned_copy_of_the_teacher_comes_back_as_the_teacher(teacher, images, at):
    again = fskd(teacher, copy.deepcopy(teacher), images, at=at)
    assert (again(images) - teacher(images)).abs().max() <= 1e-4 * teacher(images).abs().max()


@pytest.mark.parametrize("intercept, ridge", [(False, 0.0), (True, 1e-3)])
def test_one_sweep_equals_rerunning_both_networks_for_every_layer(teacher, images, intercept, ridge):
    student = fsc.prune_filters(teacher, 0.5)
    swept = fskd(teacher, student, images, at="conv", intercept=intercept, ridge=ridge, shortcuts=False)
    naive = copy.deepcopy(student).double()
    whole, x = copy.deepcopy(teacher).double(), images.double()
    inner = [(f"layer{i}.0.conv{j}", f"layer{i}.0.bn{j}") for i in (1, 2, 3) for j in (1, 2)]
    for conv, bn in [("conv1", "bn1"), *inner]:
        kept = fsc.kept_channels(student, conv)
        y = feature(whole, bn, x)
        y = (y if kept is None else y[:, kept]).permute(0, 2, 3, 1).flatten(0, 2)
        a = feature(naive, bn, x).permute(0, 2, 3, 1).flatten(0, 2)
        mean_a, mean_y = (a.mean(0), y.mean(0)) if intercept else (0 * a[0], 0 * y[0])
        b = (y - mean_y) - (a - mean_a)
        lift = (ridge * (a - mean_a).square().sum() / a.shape[1]).sqrt() * torch.eye(a.shape[1]).double()
        rows, wanted = torch.cat([a - mean_a, lift]), torch.cat([b, 0 * lift])
        d = torch.linalg.lstsq(rows, wanted, driver="gelsd").solution
        q = torch.eye(len(d)) + d.T
        module, norm = naive.get_submodule(conv), naive.get_submodule(bn)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # BN folded by hand; no bias
        shift = norm.bias - scale * norm.running_mean
        with torch.no_grad():
            module.weight.copy_(torch.einsum("om,mikl->oikl", q * scale, module.weight))
            norm.running_mean.zero_(), norm.running_var.fill_(1 - norm.eps), norm.weight.fill_(1)
            norm.bias.copy_(q @ shift + mean_y - q @ mean_a)
    found, wanted = swept(images).detach().double(), naive(x).detach()
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@given(net=random_nets(), at=st.sampled_from(("block", "conv")), shortcuts=st.booleans())
@pytest.mark.filterwarnings("ignore:prune_filters", "ignore:fskd")
def test_the_merged_network_computes_what_the_sweep_computed(net, at, shortcuts):
    """Each site's reported error after its fit is what the finished network shows when both are run again.

    Two sites may feed the same sum, a block's last conv and its downsample conv. The first is reported before
    the second is fitted, which can only lower the error of their sum.
    """
    try:
        student = fsc.prune_filters(net, 0.5)
    except ValueError:
        student = copy.deepcopy(net)
    x = torch.randn(7, 3, 12, 12, dtype=torch.float64)
    repaired = fskd(net, student, x, at=at, shortcuts=shortcuts)
    report = fsc.report_of(repaired)
    assert all(p.shape == q.shape for p, q in zip(repaired.parameters(), student.parameters(), strict=True))
    if shortcuts:
        again = errors_of(net, repaired, x, at=at).to_numpy()
        sites, _ = find_sites(trace(net, x), trace(student, x), student, at=at)
        wanted = [site.teacher_node for site in sites]
        last = [goal not in wanted[i + 1 :] for i, goal in enumerate(wanted)]
        assert again[last].tolist() == pytest.approx(report.error_after[last].tolist(), rel=1e-5, abs=1e-9)
        assert (again <= report.error_after * (1 + 1e-5) + 1e-9).all()


def test_fskd_adds_nothing_and_leaves_what_it_was_given(teacher, images):
    student = fsc.prune_filters(teacher, 0.5)
    before = fingerprint(teacher), fingerprint(student)
    teacher.train(), student.train()
    student.layer1.eval()
    repaired = fskd(teacher, student, images)
    assert (fingerprint(teacher), fingerprint(student)) == before
    assert teacher.training and student.training and not student.layer1.training and not repaired.training
    assert fsc.cost(repaired, images[:1]) == fsc.cost(student, images[:1])
    assert [type(m) for m in repaired.modules()] == [type(m) for m in student.modules()]
    assert [*dict(repaired.named_parameters())] == [*dict(student.named_parameters())]


def test_batchnorm_behind_a_fit_is_neutral_and_has_the_statistics_of_the_images(teacher, images):
    repaired = fskd(teacher, fsc.prune_filters(teacher, 0.5), images)
    bn = repaired.layer3[0].bn2
    out = feature(repaired, "layer3.0.bn2", images)
    assert torch.allclose(bn.bias, out.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(bn.weight, (out.var((0, 2, 3), correction=0) + bn.eps).sqrt(), rtol=1e-3, atol=1e-4)
    trained = copy.deepcopy(repaired)
    trained.layer3[0].bn2.train()                                       # by the batch's statistics: the same
    assert torch.allclose(trained(images), repaired(images), atol=1e-3)


# -- students of every kind ------------------------------------------------------------------------


def test_a_torch_pruning_student_is_recovered_as_ours_given_what_it_kept(teacher, images):
    ours = fsc.prune_filters(teacher, 0.5)
    theirs = copy.deepcopy(teacher)
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, images[:1])
    kept = {}
    for name in fsc.prunable_layers(teacher):
        kept[name] = fsc.kept_channels(ours, name).tolist()
        gone = sorted(set(range(teacher.get_submodule(name).out_channels)) - set(kept[name]))
        conv = theirs.get_submodule(name)
        graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, idxs=gone).prune()
    a = fskd(teacher, ours, images)
    b = fskd(teacher, theirs.eval(), images, kept=kept)
    assert torch.allclose(a(images), b(images), atol=1e-5 * float(a(images).abs().max()))


@pytest.mark.parametrize("scheme", ["svd", "spatial", "decouple"])
def test_a_factorized_student_takes_its_adaptors_behind_the_last_conv(teacher, images, scheme):
    student = fsc.factorize(teacher, 0.5, scheme=scheme)
    repaired = fskd(teacher, student, images)
    layers = fsc.report_of(repaired).layer.tolist()
    assert layers == ["bn1"] + [f"layer{i}.0.bn{j}" for i in (1, 2, 3) for j in (1, 2)]
    errors = [errors_of(teacher, net, images).iloc[-1] for net in (student, repaired)]
    assert errors[1] < 0.8 * errors[0]


def test_pruned_then_factorized_and_coupled_students_are_recovered(images):
    torch.manual_seed(0)
    net = odd_norms(NETS["mobilenet"](10))
    split = fsc.factorize(fsc.prune_filters(net, 0.5), 0.3)
    for student in (split, fsc.prune_filters(net, 0.3, coupled=True)):
        repaired = fskd(net, student, images)
        errors = [errors_of(net, n, images).iloc[-1] for n in (student, repaired)]
        assert errors[1] < errors[0]


def test_by_gradient_descent_adaptors_without_bias_come_near_the_closed_form(teacher, images):
    student = fsc.prune_filters(teacher, 0.5)
    trained = fskd(teacher, student, images, method="sgd", at="conv", lr=0.5, steps=60)
    closed = fskd(teacher, student, images, at="conv")
    none, sgd, least = (errors_of(teacher, n, images).iloc[-1] for n in (student, trained, closed))
    assert least < sgd < 0.9 * none
    assert fsc.report_of(trained).error_after.notna().all()
    assert fsc.cost(trained, images[:1]) == fsc.cost(student, images[:1])


def test_a_recovered_student_is_saved_and_loaded_with_its_report(teacher, images, tmp_path):
    repaired = fskd(teacher, fsc.prune_filters(teacher, 0.5), images)
    again = fsc.load(fsc.save(repaired, tmp_path / "s.safetensors"), teacher)
    assert torch.equal(again(images), repaired(images))
    assert fsc.report_of(again).equals(fsc.report_of(repaired))
    assert [edit["edit"] for edit in fsc.recipe_of(again)] == ["prune_filters", "fskd"]


# -- what was asked wrongly ------------------------------------------------------------------------


def test_a_student_without_recipe_is_refused_by_the_name_of_its_first_pruned_conv(teacher, images):
    student = fsc.prune_filters(teacher, 0.5)
    del student.fsc_recipe
    words = r"layer1\.0\.conv1: the student has 8 filters of the teacher's 16[^~]*kept="
    with pytest.raises(ValueError, match=words):
        fskd(teacher, student, images)


def test_networks_that_do_not_correspond_are_refused_by_the_first_module_that_differs(images):
    with pytest.raises(ValueError, match=r"do not correspond at layer1\.3\.conv1"):
        fskd(NETS["resnet20"](10).eval(), odd_norms(ResNet(5)), images)
    with pytest.raises(ValueError, match=r"correspond at layer1\.3\.conv1: a Conv2d in the teacher, nothing"):
        fskd(odd_norms(ResNet(5)), NETS["resnet20"](10).eval(), images)
    teacher, student = ResNet(1).eval(), ResNet(1).eval()
    student.layer2[0].conv1.stride = student.layer2[0].shortcut.stride = 1
    with pytest.raises(ValueError):
        fskd(teacher, student, images)


def test_nan_in_a_feature_names_network_and_layer(teacher, images):
    student = fsc.prune_filters(teacher, 0.5)
    student.layer2[0].bn1.bias.data[1] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinity in the student's features behind layer2\.0\.bn"):
        fskd(teacher, student, images)
    teacher.layer1[0].bn2.running_var.data[0] = float("inf")
    teacher.layer1[0].bn2.running_mean.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"teacher's features behind layer1\.0\.bn2"):
        fskd(teacher, student, images, at="conv")


@pytest.mark.parametrize("wrong, words", [
    ({"method": "magic"}, "method='magic'"), ({"at": "layer"}, "at='layer'"), ({"ridge": -1}, "ridge=-1"),
    ({"kept": {"layer1.0.conv1": [0, 99]}}, r"different filters of the teacher's 16"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_refused(teacher, images, wrong, words):
    with pytest.raises(ValueError, match=words):
        fskd(teacher, fsc.prune_filters(teacher, 0.5), images, **wrong)


def test_no_images_are_refused(teacher, images):
    with pytest.raises(ValueError, match="N at least 1"):
        fskd(teacher, fsc.prune_filters(teacher, 0.5), images[:0])


def test_fewer_rows_than_unknowns_are_told_with_the_images_that_would_do(teacher, images):
    student = fsc.prune_filters(teacher, 0.5)
    words = r"fewer rows .* layer3\.0\.bn2.* 16 rows for 65 unknowns[^~]*About 17 images would do[^~]*0\.01"
    with pytest.warns(UserWarning, match=words):
        fskd(teacher, student, images[:1])  # 4 x 4 pixels for 64 channels and a bias


def test_a_conv_called_twice_gets_no_adaptor_and_that_is_said(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            x = self.b(torch.relu(self.b(torch.relu(self.a(x)))))
            return self.head(x.mean((2, 3)))

    net = Twice().eval()
    with pytest.warns(UserWarning, match="b: it is called more than once"):
        fskd(net, copy.deepcopy(net), images)


def test_a_recipe_made_for_another_teacher_is_told(teacher, images):
    student, other = fsc.prune_filters(teacher, 0.5), copy.deepcopy(teacher)
    other.linear.bias.data += 1
    with pytest.warns(UserWarning, match="made for another teacher"):
        fskd(other, student, images)


def test_progress_stops_the_sweep(teacher, images):
    class Enough(Exception):
        pass

    def stop(done, total):
        if done == 2:
            raise Enough

    with pytest.raises(Enough):
        fskd(teacher, fsc.prune_filters(teacher, 0.5), images, progress=stop)

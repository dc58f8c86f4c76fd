"""Images from other sources than the task, as data/scripts/measure_sources.py makes them."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fsc
from fsc.recover.training import renew_norms

SCRIPTS = Path(__file__).resolve().parents[2] / "data" / "scripts"


@pytest.fixture(scope="module")
def sources():
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    import measure_sources

    return measure_sources


@pytest.fixture(scope="module")
def task():
    return fsc.load_task("shapes")


def small_net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    return nn.Sequential(*layers).eval()


def test_the_class_of_the_seed_is_missing_or_has_nine_tenths(sources, task):
    missing = sources.sample_of("a class missing", 50, 3, task, None)
    assert len(missing) == 50 and (missing.labels != 3).all()
    one = sources.sample_of("90 % one class", 50, 3, task, None)
    assert len(one) == 50 and (one.labels == 3).sum() == 45


def test_a_sample_without_a_class_keeps_the_other_images_of_that_seed(sources, task):
    whole, missing = task.sample(50, seed=0), sources.sample_of("a class missing", 50, 0, task, None)
    assert set(whole.indices[whole.labels != 0].tolist()) <= set(missing.indices.tolist())


@pytest.mark.parametrize("source", ["gaussian noise", "1/f noise", "dead leaves"])
def test_a_source_without_data_is_normalised_like_images_and_follows_its_seed(source, sources, task):
    one, again, other = (sources.sample_of(source, 20, seed, task, None).images for seed in (0, 0, 1))
    assert one.shape == (20, 3, 32, 32) and abs(one.mean()) < 0.2 and 0.8 < one.std() < 1.3
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_neighbouring_pixels_are_alike_but_for_gaussian_noise(sources, task):
    def likeness(source):
        x = sources.sample_of(source, 20, 0, task, None).images
        return float(torch.corrcoef(torch.stack([x[..., 1:].flatten(), x[..., :-1].flatten()]))[0, 1])

    assert abs(likeness("gaussian noise")) < 0.05 < 0.3 < min(likeness("1/f noise"), likeness("dead leaves"))


def test_images_whose_statistics_are_stored_are_at_distance_zero(sources):
    net, images = small_net(), torch.randn(16, 3, 8, 8)
    renew_norms(net, images, batch_size=16)
    assert sources.distance(net, images) < 1e-4
    net[-1].running_mean.add_((net[-1].running_var + net[-1].eps).sqrt())  # one of two norms: one sd off
    assert float(sources.distance(net, images).detach()) == pytest.approx(0.5, abs=0.01)


def test_inverted_images_are_nearer_and_the_noise_and_the_network_stay_as_they_were(sources):
    net, noise = small_net(), torch.randn(16, 3, 8, 8)
    before, weights = noise.clone(), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = sources.invert(net, noise, steps=20, lr=0.1)
    assert sources.distance(net, found) < 0.5 * sources.distance(net, noise)
    assert torch.equal(noise, before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


def test_other_peoples_images_are_left_out_where_there_are_none(sources, task, monkeypatch):
    monkeypatch.delenv("FSC_REAL_DATA", raising=False)
    assert sources.sample_of("photographs", 5, 0, task, None) is None
    assert sources.sample_of("drawings", 5, 0, task, None) is None  # the drawings' own are not other people's

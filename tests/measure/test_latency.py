"""Latency on a fake clock: which networks are called faster or slower, and how often wrongly."""

import gc
import random
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fsc.measure import latency as speed
from fsc.measure.latency import latency
from fsc.runtime import quiet

EXAMPLE = torch.zeros(2, 3, 4, 4)
QUIET = {"progress": quiet}


class Clock:
    """A clock that goes on only when a network works: by its cost in milliseconds, times `noise()`."""

    def __init__(self):
        self.ms, self.log, self.noise = 0.0, [], lambda: 1.0

    def perf_counter(self):
        return self.ms / 1e3


class Works(nn.Module):
    def __init__(self, clock, name, ms):
        super().__init__()
        self.clock, self.name, self.cost = clock, name, ms

    def forward(self, x):
        self.clock.ms += self.cost * self.clock.noise()
        self.clock.log.append(self.name)
        return x


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def nets(clock, **costs):
    return {name: Works(clock, name, ms) for name, ms in costs.items()}


def test_each_network_is_compared_with_the_first_one(clock):
    table = latency(nets(clock, teacher=8.0, half=4.0, double=16.0, same=8.0, near=8.1), EXAMPLE, **QUIET)
    assert table.index.tolist() == ["teacher", "half", "double", "same", "near"]
    assert table.index.name == "name"
    assert table.median_ms.tolist() == pytest.approx([8, 4, 16, 8, 8.1])
    assert table.spread_ms.tolist() == pytest.approx([0] * 5, abs=1e-9)
    assert table.ratio.tolist() == pytest.approx([1, 0.5, 2, 1, 1.0125])
    assert table.verdict.tolist() == [
        "reference", "faster 2.00x", "slower 2.00x", "no measurable gain", "no measurable gain"
    ]


def test_spread_is_half_the_interquartile_range(clock):
    steps = iter([1.0] * 6 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])  # 3 to warm up, 3 for the repeats
    clock.noise = lambda: next(steps)
    table = latency(nets(clock, net=10.0), EXAMPLE, rounds=9, **QUIET)
    assert table.median_ms["net"] == pytest.approx(50)
    assert table.spread_ms["net"] == pytest.approx((70 - 30) / 2)


def test_interval_of_the_median_is_the_one_in_statistical_tables():
    ranks = {6: 1, 8: 1, 9: 2, 10: 2, 15: 4, 20: 6, 30: 10, 50: 18, 100: 40}
    assert {n: speed._rank(n) for n in ranks} == ranks


def test_equal_networks_under_wild_noise_are_told_apart_at_most_once_in_twenty(clock):
    chance = random.Random(0)
    clock.noise = lambda: chance.lognormvariate(0, 0.3) * (20 if chance.random() < 0.05 else 1)
    outside = called = 0
    for seed in range(400):
        row = latency(nets(clock, a=10.0, b=10.0), EXAMPLE, seed=seed, warmup=0, **QUIET).loc["b"]
        outside += not row.low <= 1 <= row.high
        called += row.verdict != "no measurable gain"
    # The 10th to the 21st of 30 values miss the median with probability 0.043: 17 of 400, give or take 4.
    assert 5 <= outside <= 30
    assert called <= outside


def test_a_machine_that_slows_down_under_way_slows_down_no_network_in_particular(clock):
    clock.noise = lambda: 1 + len(clock.log) / 100
    table = latency(nets(clock, a=10.0, b=10.0, c=5.0), EXAMPLE, **QUIET)
    assert table.verdict.tolist()[1] == "no measurable gain"
    assert table.ratio["c"] == pytest.approx(0.5, rel=0.05)


def test_rounds_are_interleaved_in_a_shuffled_seeded_order(clock):
    def orders(seed):
        clock.log.clear()
        latency(nets(clock, a=10.0, b=10.0, c=10.0), EXAMPLE, rounds=20, warmup=2, seed=seed, **QUIET)
        timed = clock.log[3 * (2 + 3) :]
        return ["".join(timed[i : i + 3]) for i in range(0, len(timed), 3)]

    assert all(sorted(order) == ["a", "b", "c"] for order in orders(0))
    assert len(orders(0)) == 20 and len(set(orders(0))) == 6
    assert orders(0) == orders(0) != orders(1)


def test_short_passes_are_repeated_until_the_clock_can_see_them(clock):
    latency(nets(clock, slow=50.0, quick=0.5), EXAMPLE, rounds=6, warmup=0, **QUIET)
    assert clock.log.count("slow") == 3 + 6
    assert clock.log.count("quick") == 3 + 6 * 10                               # 5 ms of 0.5 ms


class Watches(nn.Module):
    """A network that notes threads, garbage collection and modes, and fails if it is told to."""

    def __init__(self, fails=False):
        super().__init__()
        self.dropout, self.seen, self.fails = nn.Dropout(), set(), fails

    def forward(self, x):
        self.seen.add((torch.get_num_threads(), gc.isenabled(), self.training, torch.is_grad_enabled()))
        if self.fails:
            raise ArithmeticError("broken")
        return x.sum()


@pytest.mark.parametrize("fails", [False, True])
def test_threads_garbage_collection_and_modes_are_set_while_timing_and_given_back(fails):
    was = torch.get_num_threads()
    net = Watches(fails)
    net.dropout.eval()
    try:
        table = latency({"net": net}, EXAMPLE, rounds=6, threads=was + 1, **QUIET)
    except ArithmeticError:
        assert fails
    else:
        assert not fails and f", {was + 1} CPU threads, torch {torch.__version__}" in table.attrs["measured"]
    assert net.seen == {(was + 1, False, False, False)}
    assert (torch.get_num_threads(), gc.isenabled()) == (was, True)
    assert (net.training, net.dropout.training) == (True, False)


def test_twice_the_work_is_slower_on_the_real_clock():
    conv = nn.Conv2d(32, 32, 3, padding=1)
    both = {"once": conv, "twice": nn.Sequential(conv, conv)}
    table = latency(both, torch.randn(1, 32, 32, 32), threads=1, **QUIET)
    assert table.verdict["twice"].startswith("slower")  # by how much: with the clock that is faked, above


def test_latency_reports_each_round_and_stops_where_told(clock):
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latency(nets(clock, a=10.0), EXAMPLE, rounds=8, progress=stop)
    assert seen == [(1, 8), (2, 8), (3, 8), (4, 8)]


@pytest.mark.parametrize(
    "models, options, words",
    [
        ({}, {}, "latency: asked for networks by name, got {}.\n  Pass a dict:"),
        ([nn.Identity()], {}, "latency: asked for networks by name, got list."),
        ({"here": nn.Conv2d(3, 3, 1), "there": nn.Conv2d(3, 3, 1, device="meta")}, {},
         "latency: the networks are on different devices: here on cpu, there on meta.\n  Move them to one"),
        ({"net": nn.Identity()}, {"rounds": 5}, "latency: rounds=5, warmup=3; asked for at least 6 rounds"),
        ({"net": nn.Identity()}, {"warmup": -1}, "latency: rounds=30, warmup=-1; asked for at least 6"),
        ({"net": nn.Identity()}, {"threads": 0}, "latency: threads=0.\n  Use 1 or more, or None for torch's"),
    ],
)
def test_what_cannot_be_timed_is_refused_with_the_remedy(models, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        latency(models, EXAMPLE, **options, **QUIET)


def test_latency_refuses_images_that_no_network_takes():
    with pytest.raises(TypeError, match="latency: images are torch.uint8"):
        latency({"net": nn.Identity()}, EXAMPLE.byte(), **QUIET)


@pytest.mark.gpu
def test_latency_on_a_gpu_waits_for_the_work_to_be_done():
    one = nn.Conv2d(256, 256, 3, padding=1).cuda()
    many = nn.Sequential(*[one] * 8)
    table = latency({"one": one, "many": many}, torch.randn(32, 256, 56, 56), rounds=10, **QUIET)
    assert 5 < table.ratio["many"] < 11
    assert torch.cuda.get_device_name() in table.attrs["measured"]


def test_a_batch_that_a_network_does_not_take_is_refused_in_words():
    with pytest.raises(ValueError, match=r"latency: this Conv2d does not take images of shape \(1, 1, 8, 8"):
        latency({"a": nn.Conv2d(3, 4, 3)}, torch.zeros(1, 1, 8, 8))

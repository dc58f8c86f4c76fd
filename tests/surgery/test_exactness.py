"""The check of exact edits: it passes rounding, refuses any other difference, and cleans up after itself."""

import pytest
import torch
from torch import nn

from fsc.surgery.exactness import NotExact, check_same, edited_output, expected_output, hooked

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype, passes, refused", [
    (torch.float64, 0.9e-4, 1.1e-4), (torch.float32, 0.9e-4, 1.1e-4), (torch.bfloat16, 0.05, 0.1),
])  # fmt: skip
def test_a_difference_counts_relative_to_the_largest_value_and_in_steps_of_the_dtype(dtype, passes, refused):
    expected = torch.tensor([0.0, 100.0], dtype=dtype)
    check_same(expected + torch.tensor([100 * passes, 0], dtype=dtype), expected, "they differ", "look")
    with pytest.raises(NotExact, match=r"they differ \(relative error 1\..e-0.\)\.\n  look"):
        check_same(expected + torch.tensor([100 * refused, 0], dtype=dtype), expected, "they differ", "look")


def test_nan_is_refused_and_a_smaller_tolerance_holds():
    expected = torch.ones(2)
    with pytest.raises(NotExact, match="relative error nan"):
        check_same(torch.tensor([1.0, torch.nan]), expected, "they differ", "look")
    with pytest.raises(NotExact):
        check_same(expected + 2e-5, expected, "they differ", "look", tolerance=1e-5)


def test_outputs_that_say_nothing_are_refused_or_told():
    net = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(net.weight), nn.init.zeros_(net.bias)
    with pytest.warns(UserWarning, match="all outputs of Conv2d are 0"):
        expected_output(net, X)
    nn.init.constant_(net.bias, torch.inf)
    with pytest.raises(ValueError, match="the outputs of Conv2d are not finite"):
        expected_output(net, X)


def test_the_network_runs_in_eval_mode_and_keeps_its_own():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout()).train()
    check_same(edited_output(net, X, "", ""), expected_output(net, X), "they differ", "look")
    assert net.training and net[1].training


def test_an_edited_network_that_does_not_run_is_refused_with_its_own_words():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1))
    with pytest.raises(NotExact, match=r"(?s)Sequential does not run without these: .*channels.*\n  do that"):
        edited_output(net, X, "without these", "do that")


def test_hooks_are_gone_after_an_error_even_those_registered_before_it():
    net = nn.Sequential(nn.ReLU(), nn.ReLU())

    def handles():
        yield net[0].register_forward_hook(lambda module, args, out: out + 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), hooked(handles()):
        pass
    with hooked([net[1].register_forward_hook(lambda module, args, out: out + 1)]):
        assert torch.equal(net(X), X.relu() + 1)
    assert torch.equal(net(X), X.relu())

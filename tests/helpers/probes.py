"""Small tools of several tests: odd statistics for a network, the output of a module, MiR's loss."""

import torch
from torch import nn

from fsc.graph.backbone import cut_backbone


def odd_norms(net: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and scales far from 1, one gamma exactly 0."""
    rng = torch.Generator().manual_seed(seed)
    for bn in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        bn.weight.data = 0.5 + torch.rand(bn.num_features, generator=rng)
        bn.bias.data = 0.3 * torch.randn(bn.num_features, generator=rng)
        bn.running_mean.data = 0.3 * torch.randn(bn.num_features, generator=rng)
        bn.running_var.data = 0.5 + torch.rand(bn.num_features, generator=rng)
        bn.weight.data[0] = 0.0
    return net.eval()


def feature(net, name, images):
    """What module `name` puts out."""
    kept = []
    handle = net.get_submodule(name).register_forward_hook(lambda m, i, out: kept.append(out.detach().clone()))
    with torch.no_grad():
        net(images)
    handle.remove()
    return kept[0]                                                      # (N, C, H, W)


def loss(teacher, student, images):
    """MiR's: the mean squared error between the features before pooling."""
    with torch.no_grad():
        a, b = (cut_backbone(net, images[:1]).body(images) for net in (student, teacher))
    return float((a - b).double().square().mean())

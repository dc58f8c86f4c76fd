"""1x1 adaptors in a running network, trained by SGD as published; least squares replaces this."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.recover.sites import Site
from fsc.recover.training import Training, descend
from fsc.runtime import device_of


def train_adaptors(
    teacher: fx.GraphModule, student: fx.GraphModule, sites: list[Site], images: Tensor, training: Training
) -> list[Tensor]:
    """FSKD-SGD: one Q (C, C), float64, per site, all trained at once to give the teacher's features there.

    The loss is the mean over the sites of the squared error, relative to the teacher's mean squared feature.
    All but the adaptors is frozen.
    """
    adaptors = [Adaptor(site.node.meta["shape"][1], site.groups) for site in sites]
    mine = features(student, [site.node for site in sites], adaptors).eval()
    theirs = features(teacher, [site.teacher_node for site in sites]).eval()
    mine.to(device_of(student), images.dtype).requires_grad_(False)
    nn.ModuleList(adaptors).requires_grad_(True)

    def loss_of(batch: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = theirs(batch)                                             # per site (B, C, H, W)
        losses = []
        for site, found, want in zip(sites, mine(batch), wanted, strict=True):
            if site.kept is not None:
                want = want[:, site.kept.to(want.device)]
            losses.append(F.mse_loss(found, want) / want.square().mean().clamp_min(1e-12))
        return torch.stack(losses).mean()

    descend(mine, loss_of, images, training, beside=[theirs])
    return [adaptor.q for adaptor in adaptors]


class Adaptor(nn.Module):
    """A square 1x1 conv without bias, Q = I + D, with D = 0 at first. Weight decay pulls D to 0, not Q."""

    def __init__(self, channels: int, groups: int = 1):
        super().__init__()
        self.d = nn.Parameter(torch.zeros(channels, channels // groups, 1, 1))
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x + F.conv2d(x, self.d, groups=self.groups)

    @property
    def q(self) -> Tensor:
        """(C, C), float64."""
        blocks = self.d[:, :, 0, 0].detach().double().split(len(self.d) // self.groups)
        return torch.eye(len(self.d), dtype=torch.float64, device=self.d.device) + torch.block_diag(*blocks)


def put_between(
    graph: fx.GraphModule, node: fx.Node, readers: list[fx.Node], name: str, adaptor: Adaptor
) -> fx.Node:
    """Put the adaptor, as module `name`, between `node` and these readers of it; return its node."""
    graph.add_submodule(name, adaptor)
    with graph.graph.inserting_before(min(readers)):
        between = graph.graph.call_module(name, (node,))
    for reader in readers:
        reader.replace_input_with(node, between)
    return between


def features(
    graph: fx.GraphModule, nodes: list[fx.Node], adaptors: list[Adaptor] | None = None
) -> fx.GraphModule:
    """The network up to these nodes: images -> a tuple of the nodes' features, each behind its adaptor.

    The modules are those of `graph`, not copies.
    """
    copied, copies = fx.Graph(), {}
    copied.graph_copy(graph.graph, copies)
    short, taken = fx.GraphModule(graph, copied), []
    for i, node in enumerate(map(copies.get, nodes)):
        if adaptors is not None:
            node = put_between(short, node, list(node.users), f"adaptor_{i}", adaptors[i])
        with copied.inserting_after(node):
            taken.append(copied.call_function(torch.clone, (node,)))  # what follows may work in place
    copied.output(tuple(taken))
    copied.eliminate_dead_code()
    short.recompile()
    return short

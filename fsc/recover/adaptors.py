"""1x1 adaptors in a running network, trained by gradient descent: the published way, which least squares replaces."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.recover.sites import Site
from fsc.recover.training import descend
from fsc.runtime import Progress


class Adaptor(nn.Module):
    """A square 1x1 conv without bias, the identity at the start: Q = I + D. Weight decay pulls D to 0, not Q."""

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


def train_adaptors(
    teacher: fx.GraphModule,
    student: fx.GraphModule,
    sites: list[Site],
    images: Tensor,
    *,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    progress: Progress | None,
) -> list[Tensor]:
    """FSKD-SGD: adaptors at all sites at once bring each feature near the teacher's; everything else is frozen.

    The loss is the mean over the sites of the squared error relative to the teacher's squared feature.

    Returns:
        For each site Q (C, C), float64.
    """
    adaptors = [Adaptor(len(s.kept) if s.kept is not None else s.twin.meta["shape"][1], s.groups) for s in sites]
    mine = features(student, [s.node for s in sites], adaptors).eval()
    theirs = features(teacher, [s.twin for s in sites]).eval()
    mine.to(next(student.parameters()).device).requires_grad_(False)
    for adaptor in adaptors:
        adaptor.requires_grad_(True)

    def loss_of(batch: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = theirs(batch)
        losses = []
        for site, got, want in zip(sites, mine(batch), wanted, strict=True):
            want = want if site.kept is None else want[:, site.kept.to(want.device)]
            losses.append(F.mse_loss(got, want) / want.square().mean().clamp_min(1e-12))
        return torch.stack(losses).mean()

    descend(
        "fskd", mine, loss_of, images, beside=[theirs],
        steps=steps, lr=lr, batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    return [adaptor.q for adaptor in adaptors]


def put_behind(graph: fx.GraphModule, node: fx.Node, name: str, adaptor: Adaptor) -> fx.Node:
    """Let all that read `node` read it through the adaptor, which becomes the module `name`; the node that calls it."""
    graph.add_submodule(name, adaptor)
    with graph.graph.inserting_after(node):
        behind = graph.graph.call_module(name, (node,))
    node.replace_all_uses_with(behind, delete_user_cb=lambda user: user is not behind)
    return behind


def features(graph: fx.GraphModule, nodes: list[fx.Node], adaptors: list[Adaptor] | None = None) -> fx.GraphModule:
    """The network up to these nodes: images in, a tuple of the features there out, each behind its adaptor.

    The modules are those of `graph`, not copies.
    """
    copied, twins = fx.Graph(), {}
    copied.graph_copy(graph.graph, twins)
    cut = fx.GraphModule(graph, copied)
    taps = []
    for i, node in enumerate(nodes):
        node = twins[node]
        if adaptors is not None:
            node = put_behind(cut, node, f"adaptor_{i}", adaptors[i])
        with copied.inserting_after(node):
            taps.append(copied.call_function(torch.clone, (node,)))  # what follows may work in place
    copied.output(tuple(taps))
    copied.eliminate_dead_code()
    cut.recompile()
    return cut

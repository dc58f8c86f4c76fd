"""Blocks that are dropped on trial, one candidate at a time, and what merely dropping each of them costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fsc.compress.blocks import without_blocks
from fsc.graph.backbone import cut_backbone
from fsc.graph.module_regions import regions
from fsc.graph.stepwise import Stepwise
from fsc.recover.training import mean_squared


@dataclass(frozen=True)
class Candidate:
    """A block that is dropped on trial, together with those that are gone already."""

    name: str
    net: nn.Module         # the teacher without these blocks; it shares the teacher's weights
    body: fx.GraphModule   # of `net`, from the images to the feature before pooling
    dropped: list[fx.Node]  # in `body`, one `nn.Identity` for each block that is dropped
    start: int             # the place of the first of them; up to there the teacher's graph is the same

    @classmethod
    def of(cls, teacher: nn.Module, name: str, gone: Sequence[str], example: Tensor) -> "Candidate":
        net = without_blocks(teacher, [*gone, name])
        body = cut_backbone(net, example).body
        places = {i: node for i, node in enumerate(body.graph.nodes) if node.target in (*gone, name)}
        return cls(name, net, body, list(places.values()), min(places))


@dataclass(frozen=True)
class Trial:
    """The images of a trial and the teacher's features for them."""

    chunks: list[Tensor]   # images, (n, C, H, W) each, on the teacher's device
    fitted: int            # number of chunks that may be fitted; the chunks behind them are held out
    wanted: list[Tensor]   # the teacher's feature before pooling, for each chunk

    def losses(self, found: Sequence[Tensor]) -> tuple[float, float]:
        """MiR's loss on the fitted and on the held-out images, from a network's features for each chunk."""
        n = self.fitted
        return mean_squared(found[:n], self.wanted[:n]), mean_squared(found[n:], self.wanted[n:])


def merely_dropped(teacher: Stepwise, candidate: Candidate, trial: Trial) -> dict[str, float]:
    """MiR's loss without the block, before anything makes up for it; the cosine of its input and output.

    Args:
        teacher: under way; it stands at the first dropped block, or between the images and that block.
    """
    block = regions(teacher.graph)[candidate.name].leaves[0]
    (identity,) = (node for node in candidate.dropped if node.target == candidate.name)
    whole, without = teacher.branch(teacher.graph), teacher.branch(candidate.body)
    cosines, found = [], []
    for chunk in range(len(trial.chunks)):
        read = without.advance(chunk, 1 + without.place[identity], {identity})[identity]
        made = whole.advance(chunk, 1 + whole.place[block], {block})[block]
        cosines.append(F.cosine_similarity(read.flatten(1), made.flatten(1)).double().sum())
        found.append(without.finish(chunk))
    images = sum(len(chunk) for chunk in trial.chunks)
    return {"dropped_mse": trial.losses(found)[0], "cosine": float(sum(cosines)) / images}

"""Which channels may go: cells of channels that touch the same places, so that one is as good to remove as another."""

from collections import defaultdict
from dataclasses import dataclass, field

from torch import nn

from fsc.graph.channels import Channels, Port

TIED = "an add, a concatenation or the classifier ties its channels; coupled=True prunes most of these"


@dataclass
class Cell:
    """Channels (by label) on the same sides of the same modules and, in grouped convs, in the same group."""

    makers: list[str]  # the convs whose filters they are, in order of execution
    labels: list[int] = field(default_factory=list)


def find_cells(channels: Channels, *, coupled: bool) -> list[Cell]:
    """All channels that may go, in cells, in order of execution.

    Args:
        channels: of the whole net, from `follow_channels`.
        coupled: also those that adds, concatenations or the classifier tie together.
    """
    touches: dict[int, list[tuple[int, int]]] = defaultdict(list)  # label -> (port, conv group)
    makers: dict[int, list[Port]] = defaultdict(list)
    for i, port in enumerate(channels.ports):
        width = _group_width(port)
        for place, label in enumerate(port.labels.tolist()):
            touch = (i, place // width)
            if touch not in touches[label][-1:]:  # a flattened map touches a Linear once a pixel
                touches[label].append(touch)
            if port.makes:
                makers[label].append(port)
    cells: dict[tuple, Cell] = {}
    for label, where in touches.items():
        convs = makers[label] and all(isinstance(port.module, nn.Conv2d) for port in makers[label])
        if convs and label not in channels.pinned and (coupled or label not in channels.joined):
            names = list(dict.fromkeys(port.name for port in makers[label]))
            cells.setdefault(tuple(where), Cell(names)).labels.append(label)
    return list(cells.values())


def why_kept(channels: Channels, *, coupled: bool) -> dict[str, str]:
    """Conv -> the reason why (some of) its filters must stay; convs without a reason are left out."""
    reasons = {}
    for port in channels.ports:
        if not port.makes or not isinstance(port.module, nn.Conv2d):
            continue
        labels = port.labels.tolist()
        pins = [channels.pinned[label] for label in labels if label in channels.pinned]
        if not coupled and channels.joined.intersection(labels):
            reasons[port.name] = TIED
        elif pins:
            reasons[port.name] = pins[0]
    return reasons


def _group_width(port: Port) -> int:
    """Channels a group on this side of a grouped conv; all of them where groups do not matter."""
    groups = port.module.groups if isinstance(port.module, nn.Conv2d) else 1
    depthwise = groups > 1 and groups == port.module.in_channels
    return len(port.labels) if depthwise else len(port.labels) // groups

"""Groups of interchangeable channels: they enter and leave the same modules, so any of them can go."""

from collections import defaultdict
from dataclasses import dataclass, field

from torch import nn

from fsc.graph.channels import OUTPUT, Channels, Port
from fsc.graph.operations import is_depthwise

TIED = "an add, a concatenation or the classifier ties its channels; coupled=True prunes most of these"
EXPECTED = (TIED, OUTPUT)
"""The reasons that follow from the rules of pruning; nobody needs a warning of them."""


@dataclass
class Group:
    """Channels, by label, on the same sides of the same modules, and in the same group of a grouped conv."""

    makers: list[str]  # the convs whose filters they are, in order of execution
    labels: list[int] = field(default_factory=list)


def find_groups(channels: Channels, *, coupled: bool) -> list[Group]:
    """All channels that may go, in groups, in order of execution.

    With `coupled`, these include channels that adds, concatenations or the classifier tie together.

    For example, conv "0" makes four channels. The BatchNorm, the ReLU and conv "3" hand on or read all of
    them, so they are one group. The images' channels (labels 0 to 2) must stay, and so must those of conv
    "3", which go to the output.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> find_groups(follow_channels(trace(net)), coupled=False)
    [Group(makers=['0'], labels=[3, 4, 5, 6])]

    If conv "3" has groups=2, its first group reads the labels 3 and 4, its second reads 5 and 6. Both must
    lose as many channels, so they are two groups here.
    """
    touches: dict[int, list[tuple[int, int]]] = defaultdict(list)  # label -> (port, group of its conv)
    makers: dict[int, list[Port]] = defaultdict(list)
    for i, port in enumerate(channels.ports):
        width = _conv_group_width(port)
        for place, label in enumerate(port.labels.tolist()):
            touch = (i, place // width)
            if touch not in touches[label][-1:]:  # after flatten, a Linear reads a channel once per pixel
                touches[label].append(touch)
            if port.makes:
                makers[label].append(port)
    groups: dict[tuple, Group] = {}
    for label, where in touches.items():
        of_convs = makers[label] and all(isinstance(port.module, nn.Conv2d) for port in makers[label])
        if of_convs and label not in channels.pinned and (coupled or label not in channels.joined):
            names = list(dict.fromkeys(port.name for port in makers[label]))
            groups.setdefault(tuple(where), Group(names)).labels.append(label)
    return list(groups.values())


def why_kept(channels: Channels, *, coupled: bool) -> dict[str, str]:
    """Conv -> the reason why all or some of its filters must stay; convs without a reason are left out."""
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


def _conv_group_width(port: Port) -> int:
    """Channels per group on this side of a grouped conv; all of them where the groups do not matter."""
    grouped = isinstance(port.module, nn.Conv2d) and not is_depthwise(port.module)
    return len(port.labels) // port.module.groups if grouped else len(port.labels)

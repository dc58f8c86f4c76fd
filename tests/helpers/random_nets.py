"""Random small CNNs for hypothesis; each block knows which module passes on the channels of which layer."""

import torch
from hypothesis import strategies as st
from torch import nn


class Block(nn.Module):
    """`shows`: a module whose output channels are those of a conv or norm -> that layer, by names inside."""

    shows: dict[str, str] = {}


def _conv(c_in, c_out, k=3, *, stride=1, dilation=1, groups=1, bias=False):
    return nn.Conv2d(c_in, c_out, k, stride, dilation * (k // 2), dilation, groups, bias=bias)


class Plain(Block):
    shows = {"act": "conv"}

    def __init__(self, c, draw):
        super().__init__()
        self.c_out = draw(st.integers(1, 7))
        self.conv = _conv(c, self.c_out, draw(st.sampled_from((1, 3))), stride=draw(st.integers(1, 2)),
                          dilation=draw(st.integers(1, 2)), bias=draw(st.booleans()))
        self.bn = nn.BatchNorm2d(self.c_out) if draw(st.booleans()) else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Residual(Block):
    shows = {"act1": "conv1", "act2": "conv2"}

    def __init__(self, c, draw):
        super().__init__()
        hidden = draw(st.integers(1, 7))
        self.c_out = draw(st.sampled_from((c, c + 2)))
        stride = draw(st.integers(1, 2)) if self.c_out != c else 1
        self.conv1, self.bn1, self.act1 = _conv(c, hidden, stride=stride), nn.BatchNorm2d(hidden), nn.ReLU()
        self.conv2, self.bn2 = _conv(hidden, self.c_out, bias=True), nn.BatchNorm2d(self.c_out)
        self.act2 = nn.ReLU()
        self.down = _conv(c, self.c_out, 1, stride=stride) if self.c_out != c else nn.Identity()

    def forward(self, x):
        return self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))) + self.down(x))


class Grouped(Block):
    shows = {"act1": "conv1", "act2": "conv2", "act3": "conv3"}

    def __init__(self, c, draw):
        super().__init__()
        groups = draw(st.integers(1, 3))
        a, b = groups * draw(st.integers(2, 4)), groups * draw(st.integers(1, 4))
        self.c_out = c
        self.conv1, self.act1 = _conv(c, a, 1, bias=True), nn.SiLU()
        self.conv2, self.bn2, self.act2 = _conv(a, b, groups=groups), nn.BatchNorm2d(b), nn.ReLU()
        self.conv3, self.act3 = _conv(b, c, 1), nn.ReLU()

    def forward(self, x):
        return self.act3(x + self.conv3(self.act2(self.bn2(self.conv2(self.act1(self.conv1(x)))))))


class Inverted(Block):
    """An inverted residual with a squeeze-and-excitation gate; an Identity marks its end."""

    shows = {"act1": "up", "act2": "up", "act_gate": "gate1", "end": "down"}

    def __init__(self, c, draw):
        super().__init__()
        hidden, squeeze = draw(st.integers(2, 8)), draw(st.integers(1, 3))
        self.c_out = c
        self.up, self.bn1, self.act1 = _conv(c, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish()
        self.deep, self.bn2 = _conv(hidden, hidden, groups=hidden), nn.BatchNorm2d(hidden)
        self.act2 = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate1, self.act_gate = _conv(hidden, squeeze, 1, bias=True), nn.ReLU()
        self.gate2 = _conv(squeeze, hidden, 1)
        self.down, self.bn3, self.end = _conv(hidden, c, 1), nn.BatchNorm2d(c), nn.Identity()

    def forward(self, x):
        h = self.act2(self.bn2(self.deep(self.act1(self.bn1(self.up(x))))))
        h = h * torch.sigmoid(self.gate2(self.act_gate(self.gate1(self.pool(h)))))
        return self.end(x + self.bn3(self.down(h)))


class Dense(Block):
    shows = {"act0": "norm", "act1": "conv1", "end": "conv2"}

    def __init__(self, c, draw):
        super().__init__()
        hidden, growth = draw(st.integers(1, 6)), draw(st.integers(1, 4))
        self.c_out = c + growth
        self.norm, self.act0, self.conv1 = nn.BatchNorm2d(c), nn.ReLU(), _conv(c, hidden, 1)
        self.act1, self.conv2, self.end = nn.ReLU(), _conv(hidden, growth), nn.Identity()

    def forward(self, x):
        return torch.cat([x, self.end(self.conv2(self.act1(self.conv1(self.act0(self.norm(x))))))], 1)


class RandomNet(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.stem = Plain(3, draw)
        c, blocks = self.stem.c_out, []
        kinds = st.sampled_from((Plain, Residual, Grouped, Inverted, Dense))
        for kind in draw(st.lists(kinds, min_size=1, max_size=4)):
            blocks.append(kind(c, draw))
            c = blocks[-1].c_out
        self.blocks = nn.Sequential(*blocks)
        side = draw(st.integers(1, 2))  # 2: a Linear that reads each channel at four places
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.linear = nn.Linear(c * side * side, 5)

    def forward(self, x):
        return self.linear(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))

    def shows(self) -> dict[str, str]:
        """Module -> the conv or norm whose channels its outputs are, by their names in the whole net."""
        return {
            f"{name}.{module}": f"{name}.{conv}"
            for name, block in self.named_modules() if isinstance(block, Block)
            for module, conv in block.shows.items()
        }


@st.composite
def random_nets(draw) -> RandomNet:
    """Draw a net in eval mode and float64; its BatchNorms have odd statistics and scales, some of them 0."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    net = RandomNet(draw).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 3)
            module.weight.data[0] = 0.0
    return net

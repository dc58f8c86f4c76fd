"""Operations by what they do to channels: those that treat each channel alone, sums, and products."""

import operator

import torch
import torch.nn.functional as F
from torch import nn

ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Threshold,
    nn.Identity, nn.modules.dropout._DropoutNd,
)  # fmt: skip
SPATIAL_MODULES = (
    nn.Upsample, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
)  # fmt: skip
ELEMENTWISE = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh,
    F.sigmoid, F.tanh, F.softplus, F.dropout, F.dropout2d, torch.relu, torch.sigmoid, torch.tanh, torch.clamp,
    torch.abs, torch.neg, torch.exp, torch.pow, operator.neg, operator.pow,
    "relu", "relu_", "sigmoid", "tanh", "clamp", "clamp_", "contiguous", "clone", "detach", "float", "to",
    "abs", "neg", "exp", "pow",
}  # fmt: skip
SPATIAL = {F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate}
ADDS = {operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub}
ADDS |= {"add", "add_", "sub", "sub_"}
PRODUCTS = {operator.mul, operator.imul, operator.truediv, torch.mul, torch.div, "mul", "mul_", "div", "div_"}
SHAPE_READS = {"size", "dim", getattr}


def hands_channels_on(module: nn.Module, axis: int) -> bool:
    """True if each channel that leaves the module depends on one of its input alone; they lie on `axis`."""
    return isinstance(module, ELEMENTWISE_MODULES) or (isinstance(module, SPATIAL_MODULES) and axis == 1)


def is_depthwise(module: nn.Module) -> bool:
    """True for a conv with one group for each input channel."""
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels

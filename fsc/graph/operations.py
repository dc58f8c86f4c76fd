"""Operations by what they do to channels: one by one, adding, multiplying; any other mixes them, for all we know."""

import operator

import torch
import torch.nn.functional as F
from torch import nn

ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid,
    nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Threshold, nn.Identity,
    nn.modules.dropout._DropoutNd,
)  # fmt: skip
SPATIAL_MODULES = (
    nn.Upsample, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
)  # fmt: skip
ELEMENTWISE = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.sigmoid,
    F.tanh, F.softplus, F.dropout, F.dropout2d, torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.abs,
    torch.neg, torch.exp, torch.pow, operator.neg, operator.pow,
    "relu", "relu_", "sigmoid", "tanh", "clamp", "clamp_", "contiguous", "clone", "detach", "float", "to", "abs", "neg",
    "exp", "pow",
}  # fmt: skip
SPATIAL = {
    F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate,
}  # fmt: skip
ADDS = {operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, "add", "add_", "sub", "sub_"}
PRODUCTS = {operator.mul, operator.imul, operator.truediv, torch.mul, torch.div, "mul", "mul_", "div", "div_"}
SHAPE_READS = {"size", "dim", getattr}


def hands_channels_on(module: nn.Module, axis: int) -> bool:
    """Whether each channel (they lie on `axis`) that leaves the module is made of that same channel entering."""
    return isinstance(module, ELEMENTWISE_MODULES) or (isinstance(module, SPATIAL_MODULES) and axis == 1)

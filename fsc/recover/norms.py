"""BatchNorm's statistics taken anew from the few images: the control of all that fits, and an end of MiR."""

import torch
from torch import Tensor, nn

from fsc.runtime import device_of


@torch.no_grad()
def renew_norms(net: nn.Module, images: Tensor, *, batch_size: int) -> None:
    """Set every BatchNorm's running statistics, in place, to the mean of those of whole batches; leaves eval mode.

    Args:
        net: its BatchNorms are changed, nothing else; one without running statistics stays as it is.
        images: (N, C, H, W); they move to where the net lives, a batch at a time.
        batch_size: no batch is smaller, unless there are fewer images than that.
    """
    net.eval()
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean over all batches
        norm.train()
    for batch in images.tensor_split(max(1, len(images) // batch_size)):
        net(batch.to(device_of(net)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()

"""Random crop and flip on the device: one draw for the whole batch of images, each image moved its own way."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pad by an eighth of the side with zeros, crop back at a random place, flip left to right with probability 0.5.

    Args:
        images: (N, C, H, W), on any device.
        generator: on the CPU; the same state gives the same crops on every device.
    """
    n, _, h, w = images.shape
    pad_y, pad_x = h // 8, w // 8
    dy = torch.randint(2 * pad_y + 1, (n,), generator=generator)
    dx = torch.randint(2 * pad_x + 1, (n,), generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    rows = dy[:, None] + torch.arange(h)                               # (N, H)
    cols = dx[:, None] + torch.arange(w)                               # (N, W)
    cols = torch.where(flip[:, None], cols.flip(1), cols)
    rows, cols = rows.to(images.device), cols.to(images.device)
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    picture = torch.arange(n, device=images.device)[:, None, None]
    # Advanced indexing puts the channel axis last: (N, H, W, C).
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)

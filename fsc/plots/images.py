"""Images, shown as they are."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fsc.plots.drawing import INK, TEXT, Picture, new_figure
from fsc.plots.readings import counted
from fsc.runtime import public


@public
def picture_grid(
    images: Tensor, *, mean: Sequence[float], std: Sequence[float], titles: Sequence[str] | None = None,
    columns: int | None = None,
) -> Picture:
    """Draw the images themselves, in rows, as they were before they were normalised.

    The `numbers` of the picture are "images" and the count of each title.

    Args:
        images: (N, 3, H, W), normalised.
        mean, std: 3 numbers each, with which the images were normalised: task.mean, task.std.
        titles: N words to write under them, such as their classes.
        columns: images per row; None: 10, or 8 with titles.

    Raises:
        ValueError: the number of titles differs from that of the images.

    >>> fsc.plots.picture_grid(few.images, mean=task.mean, std=task.std)
    """
    n, _, h, w = images.shape
    if titles is not None and len(titles) != n:
        raise ValueError(f"{len(titles)} titles for {n} images.\n  Pass one title per image, or none.")
    columns = min(n, columns or (10 if titles is None else 8))
    rows = -(-n // columns)
    step_x, step_y = w + w // 16 + 1, h + h // 16 + 1 + (0 if titles is None else h // 4)
    sheet = np.ones((rows * step_y, columns * step_x, 3))
    pixels = images.detach().cpu().permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
    pixels = (pixels * np.array(std) + np.array(mean)).clip(0, 1)
    corners = [(i // columns * step_y, i % columns * step_x) for i in range(n)]
    for (top, left), image in zip(corners, pixels, strict=True):
        sheet[top : top + h, left : left + w] = image
    width = 7.5 * min(1, columns / 5)
    figure = new_figure(width, width * sheet.shape[0] / sheet.shape[1])
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for (top, left), title in zip(corners, titles or (), strict=titles is not None):
        axes.text(left + w / 2, top + h + h // 7, title, fontsize=TEXT, color=INK, ha="center", va="center")

    kinds = Counter(titles or ())
    each = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    sentence = f"{counted([n], 'image')} of {w} x {h} pixels{': ' if each else ''}{each}."
    return Picture(figure, f"The images in {rows} rows. {sentence}", sentence, {"images": n} | kinds)

"""Ten classes of 32x32 drawings: the embedded images, made from a seed alone.

A drawing is one shape (the class) at a random place, size, angle and aspect, filled with a colour and a
texture, on a background with its own colours and texture, among a few distracting strokes, under noise. The
difficulty was tuned so that compression costs a network as much here as on photographs: see `data/README.md`.
"""

import math

import torch
from torch import Tensor

CLASSES = ("disc", "ring", "half disc", "crescent", "triangle", "square", "pentagon", "star", "cross", "bar")
SIZE = 32
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)


def draw(n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `n` pictures, classes in random order.

    Returns:
        images: (n, 3, 32, 32) uint8.
        labels: (n,) int64, indices into `CLASSES`.
    """
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(CLASSES), (n,), generator=rng)
    batches = [_draw_batch(part, rng) for part in labels.split(1000)]
    return torch.cat(batches), labels


def _draw_batch(labels: Tensor, rng: torch.Generator) -> Tensor:
    n = len(labels)
    x, y = _grid(n)                                                    # (n, 32, 32) each, in [-1, 1]

    def uniform(low: float, high: float, *channels: int) -> Tensor:
        """One number per drawing, (n, 1, 1), or one per drawing and channel, (n, channels, 1, 1)."""
        return low + (high - low) * torch.rand(n, *channels, 1, 1, generator=rng)

    angle = uniform(0, 2 * math.pi)
    radius = uniform(0.38, 0.7)
    stretch = uniform(0.85, 1.18)
    u, v = _turn(x - uniform(-0.25, 0.25), y - uniform(-0.25, 0.25), angle)
    u, v = u / (radius * stretch), v / (radius / stretch)
    inside = _cover(_signed_distance(u, v, labels) * radius)           # (n, 32, 32) in [0, 1]

    ground = _colours(x, y, uniform)                                   # (n, 3, 32, 32)
    ink = _colours(x, y, uniform)
    # Ink too close to the ground would make pictures that nobody can name: push the two apart.
    gap = ink.mean((2, 3)) - ground.mean((2, 3))                       # (n, 3)
    push = torch.where(gap >= 0, 1.0, -1.0) * (0.2 - gap.abs()).clamp_min(0) * 0.5
    ink, ground = ink + push[:, :, None, None], ground - push[:, :, None, None]

    picture = ground + inside[:, None] * (ink - ground)
    for _ in range(3):
        picture = _stroke(picture, x, y, uniform)
    noise = torch.randn(picture.shape, generator=rng)
    picture = picture + uniform(0.03, 0.11)[:, None] * noise
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def _grid(n: int) -> tuple[Tensor, Tensor]:
    line = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x.expand(n, -1, -1), y.expand(n, -1, -1)


def _turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    c, s = angle.cos(), angle.sin()
    return c * x + s * y, c * y - s * x


def _cover(distance: Tensor) -> Tensor:
    """Share of each pixel that lies inside, from the signed distance; a pixel is 2 / SIZE wide."""
    return (0.5 - distance * (SIZE / 2)).clamp(0, 1)


def _signed_distance(u: Tensor, v: Tensor, labels: Tensor) -> Tensor:
    """Distance to the outline of each picture's own shape in shape units; negative inside. (n, 32, 32)."""
    distance = torch.empty_like(u)
    for label, name in enumerate(CLASSES):
        mine = labels == label
        distance[mine] = _OUTLINES[name](u[mine], v[mine])
    return distance


def _disc(u, v):
    return (u * u + v * v).sqrt() - 0.92


def _box(u, v, a, b):
    return torch.maximum(u.abs() - a, v.abs() - b)


def _polygon(u, v, corners):
    """Regular polygon: the largest distance over its sides."""
    inner = math.cos(math.pi / corners)
    sides = [u * math.cos(t) + v * math.sin(t) for t in (2 * math.pi * k / corners for k in range(corners))]
    return torch.stack(sides).amax(0) - inner


def _star(u, v):
    r, angle = (u * u + v * v).sqrt(), torch.atan2(v, u)
    wedge = 2 * math.pi / 5
    # Fold the five points onto one: 0 at its tip, wedge / 2 in the notch beside it.
    folded = (torch.remainder(angle + wedge / 2, wedge) - wedge / 2).abs()
    px, py = r * folded.cos(), r * folded.sin()
    tip, notch = 1.05, 0.45
    nx, ny = notch * math.cos(wedge / 2), notch * math.sin(wedge / 2)
    ex, ey = nx - tip, ny                                                       # the edge from tip to notch
    return ((px - tip) * -ey + py * ex) / math.hypot(ex, ey) * -1


_OUTLINES = {
    "disc": _disc,
    "ring": lambda u, v: torch.maximum(_disc(u, v), 0.5 - (u * u + v * v).sqrt()),
    "half disc": lambda u, v: torch.maximum(_disc(u, v), -v - 0.12),
    "crescent": lambda u, v: torch.maximum(_disc(u, v), 0.72 - ((u - 0.45) ** 2 + v * v).sqrt()),
    "triangle": lambda u, v: _polygon(u, v, 3) - 0.02,
    "square": lambda u, v: _box(u, v, 0.76, 0.76),
    "pentagon": lambda u, v: _polygon(u, v, 5) - 0.06,
    "star": _star,
    "cross": lambda u, v: torch.minimum(_box(u, v, 0.95, 0.33), _box(u, v, 0.33, 0.95)),
    "bar": lambda u, v: _box(u, v, 0.98, 0.42),
}


def _colours(x: Tensor, y: Tensor, uniform) -> Tensor:
    """A colour, a gradient and a wave of random direction, frequency and strength: (n, 3, 32, 32)."""
    slope_u, _ = _turn(x, y, uniform(0, 2 * math.pi))
    wave_u, _ = _turn(x, y, uniform(0, 2 * math.pi))
    wave = torch.sin(wave_u * uniform(3, 16) + uniform(0, 2 * math.pi))
    base = uniform(0.12, 0.88, 3)
    gradient = uniform(-0.18, 0.18, 3) * slope_u[:, None]
    texture = uniform(-0.16, 0.16, 3) * wave[:, None]
    return base + gradient + texture


def _stroke(picture: Tensor, x: Tensor, y: Tensor, uniform) -> Tensor:
    """One short line of its own colour over the picture, thin enough to leave the shape recognisable."""
    u, v = _turn(x - uniform(-1, 1), y - uniform(-1, 1), uniform(0, 2 * math.pi))
    line = torch.maximum(u.abs() - uniform(0.1, 0.6), v.abs() - uniform(0.02, 0.07))
    cover = _cover(line)[:, None]
    return picture + cover * (uniform(0, 1, 3) - picture)

"""Draw figures: a table comes in; a picture, its alt text, its sentence and its numbers come out."""

from fsc.plots.accuracy import accuracy_by_blocks, accuracy_by_ratio, accuracy_by_samples, accuracy_by_seconds
from fsc.plots.blocks import accuracy_by_time, rankings
from fsc.plots.cost_bars import costs
from fsc.plots.drawing import COLOURS, MARKERS, NAMES, Picture
from fsc.plots.images import picture_grid
from fsc.plots.layers import error_map, sensitivity
from fsc.plots.overview import overview
from fsc.plots.training import loss_history, training_curve

__all__ = [
    "COLOURS", "MARKERS", "NAMES", "Picture", "accuracy_by_blocks", "accuracy_by_ratio",
    "accuracy_by_samples", "accuracy_by_seconds", "accuracy_by_time", "costs", "error_map", "loss_history",
    "overview", "picture_grid", "rankings", "sensitivity", "training_curve",
]

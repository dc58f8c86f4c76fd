"""Panels of knobs over stored results, and the explorer of a whole study."""

from fsc.widgets.explorer import Explorer
from fsc.widgets.panel import Panel
from fsc.widgets.work import Stopped

__all__ = ["Explorer", "Panel", "Stopped"]

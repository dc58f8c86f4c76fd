"""What a reader turns: a panel of knobs over stored results, and the explorer of a whole study."""

from fsc.background import Stopped
from fsc.explorer import Explorer
from fsc.panels import Panel

__all__ = ["Explorer", "Panel", "Stopped"]

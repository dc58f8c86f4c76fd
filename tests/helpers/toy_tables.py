"""Small tables whose means and spreads are known, for the tests of figures."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.text import Text

NAN = np.nan
COLUMNS = ["method", "samples", "ratio", "seed", "accuracy"]
LATENCY = {0.3: 0.8, 0.5: 0.6}
MEANS = {("fskd", 50, 0.3): 0.85, ("fskd", 500, 0.3): 0.9, ("fskd", 50, 0.5): 0.7, ("fskd", 500, 0.5): 0.8,
         ("finetune", 50, 0.3): 0.6, ("finetune", 500, 0.3): 0.88, ("mine", 50, 0.5): 0.75}


def toy_table() -> pd.DataFrame:
    """Three draws per setting. 50 images, ratio 0.5: 0.551, 0.572 and 0.593, with mean 0.572 and sd 0.021."""
    rows = [("teacher", NAN, NAN, 0, 0.921), ("none", NAN, 0.25, 0, 0.6), ("none", NAN, 0.5, 0, 0.16)]
    for samples, ratio, middle in ((50, 0.5, 0.572), (500, 0.5, 0.8), (50, 0.25, 0.75), (500, 0.25, 0.85)):
        rows += [("finetune", samples, ratio, seed, middle + (seed - 1) * 0.021) for seed in range(3)]
    return pd.DataFrame(rows, columns=COLUMNS)


def texts(picture) -> list[str]:
    """Every word drawn, in the order of drawing."""
    return [t.get_text() for axes in picture.figure.axes for t in axes.texts]


def assert_readable(picture) -> None:
    """The text is large, every axis has a name, nothing reaches over the edge; two pixels per CSS pixel."""
    drawn = [t for t in picture.figure.findobj(Text) if t.get_text().strip()]
    assert min(t.get_fontsize() for t in drawn) >= 11
    assert picture.sentence in picture.alt and len(picture.alt) > len(picture.sentence)
    for axes in picture.figure.axes:
        assert axes.images or axes.get_ylabel(), "an axis without a name"
    (height, width, *_), size = plt.imread(io.BytesIO(picture.png())).shape, picture.size
    assert (width, height) == (2 * size[0], 2 * size[1])
    box, (width, height) = picture.figure.get_tightbbox(), picture.figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02, box


def timed_draws() -> pd.DataFrame:
    """The toy table with seconds; a second method of two draws that takes a hundredth of the time."""
    table = toy_table().assign(seconds=lambda rows: 10.0 + rows.seed)
    quick = [("fskd", 50, 0.5, seed, 0.9, seconds) for seed, seconds in ((0, 0.0), (1, 0.2))]
    return pd.concat([table, pd.DataFrame(quick, columns=[*COLUMNS, "seconds"])])


def depth(*errors: float) -> pd.Series:
    return pd.Series(errors, index=[f"layer{i}" for i in range(len(errors))], name="error")


def timed_table() -> pd.DataFrame:
    """As `fsc.compare` gives it."""
    return pd.DataFrame(
        {
            "params": [1000, 250],
            "macs": [8000, 4000],
            "ratio": [1.0, 0.8],
            "low": [1.0, 0.7],
            "high": [1.0, 0.9],
            "verdict": ["reference", "faster 1.25x"],
        },
        index=["teacher", "half"],
    )


def frontier_table() -> pd.DataFrame:
    """Three draws per point, 2 % apart; "mine" takes half of the teacher's latency, the others 60 %."""
    rows = [("teacher", NAN, NAN, NAN, 0.95, 1.0, 0.0)]
    rows += [("none", NAN, ratio, NAN, 0.2, latency, 0.0) for ratio, latency in LATENCY.items()]
    seconds = {"mine": 0.01, "fskd": 2.0, "finetune": 30.0}
    for (method, samples, ratio), mean in MEANS.items():
        cost = (0.5 if method == "mine" else LATENCY[ratio], seconds[method])
        rows += [(method, samples, ratio, seed, mean + 0.02 * (seed - 1), *cost) for seed in range(3)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "latency_ratio", "seconds"])
    return table.assign(latency_low=table.latency_ratio - 0.02, latency_high=table.latency_ratio + 0.01)

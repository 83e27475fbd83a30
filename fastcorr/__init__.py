"""2-D cross-correlation as SciPy defines it, at the speed of the machine, with gradients.

`correlate2d` and `convolve2d` take SciPy's arguments and give SciPy's results; keywords of
ours add batches (`axes`), `out`, `dtype` and `workers`.  The `_vjp` functions are their
gradients; `corr2d` and `corr2d_backward` are the bare valid correlation of deep learning.
"""

from fastcorr._dispatch import show_config
from fastcorr._workers import get_workers, set_workers
from fastcorr.correlate import (
    convolve2d,
    convolve2d_vjp,
    corr2d,
    corr2d_backward,
    correlate2d,
    correlate2d_vjp,
)

__version__ = "0.1.0"

__all__ = [
    "convolve2d",
    "convolve2d_vjp",
    "corr2d",
    "corr2d_backward",
    "correlate2d",
    "correlate2d_vjp",
    "get_workers",
    "set_workers",
    "show_config",
]

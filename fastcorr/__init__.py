"""2-D cross-correlation as SciPy defines it, at the speed of the machine, with gradients.

`correlate2d` and `convolve2d` take SciPy's arguments and give SciPy's results; keywords of
ours add batches (`axes`), `out`, `dtype` and `workers`.  The `_vjp` functions are their
gradients; `corr2d` and `corr2d_backward` are the bare valid correlation of deep learning.
`conv2d` and `conv_transpose2d` take PyTorch's arguments, for images of many channels; layers,
optimizers and pictures over them are in `fastcorr.nn`, `fastcorr.optim` and `fastcorr.plot`.
"""

from fastcorr._dispatch import show_config
from fastcorr._workers import get_workers, set_workers
from fastcorr.conv import (
    conv2d,
    conv2d_backward,
    conv2d_output_shape,
    conv_transpose2d,
    conv_transpose2d_backward,
)
from fastcorr.correlate import (
    choose_method,
    convolve2d,
    convolve2d_vjp,
    corr2d,
    corr2d_backward,
    correlate2d,
    correlate2d_vjp,
    plan_convolve2d,
    plan_correlate2d,
)
from fastcorr.receptive import receptive_field, receptive_field_mask

__version__ = "0.1.0"

__all__ = [
    "choose_method",
    "conv2d",
    "conv2d_backward",
    "conv2d_output_shape",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "convolve2d",
    "convolve2d_vjp",
    "corr2d",
    "corr2d_backward",
    "correlate2d",
    "correlate2d_vjp",
    "get_workers",
    "plan_convolve2d",
    "plan_correlate2d",
    "receptive_field",
    "receptive_field_mask",
    "set_workers",
    "show_config",
]

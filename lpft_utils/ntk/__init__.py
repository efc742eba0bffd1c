"""The neural tangent kernel: its blocks, its parts P and F, and what follows from them."""

from lpft_utils.ntk.dense import dense_kernel, jacobian
from lpft_utils.ntk.engine import kernel
from lpft_utils.ntk.result import Kernel, load_kernel
from lpft_utils.ntk.sketch import Sketch, sketch

__all__ = ["Kernel", "Sketch", "dense_kernel", "jacobian", "kernel", "load_kernel", "sketch"]

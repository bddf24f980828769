"""torch_npu on host CANN: the operators that CANN's libraries have and host CANN has not run on torch's CPU kernels.

`import torch` calls :func:`install` by itself, as it imports torch_npu; with TORCH_DEVICE_BACKEND_AUTOLOAD=0 it is the
caller's to do, after `import torch_npu`. docs/hostcann.md says what is modelled.
"""

import ctypes
import importlib


def install() -> None:
    """Import torch_npu and give its device the host's kernels. Calling it again does nothing.

    Raises:
        OSError: the libraries are not on the loader's path (scripts/hostcann.sh puts them there).
    """
    importlib.import_module("torch_npu")
    ctypes.CDLL("libhostcann_torch.so").hostcann_install_fallback()

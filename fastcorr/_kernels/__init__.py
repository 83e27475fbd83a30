"""The compiled loops.  Private: they check nothing; fastcorr's functions do."""

import os as _os
import sys as _sys

# After a plain `pip install .`, Python started inside the source tree finds this folder before
# the installed one, which holds the compiled modules: look there too.
if not any(
    name.startswith("_cpu.") and name.endswith((".so", ".pyd"))
    for folder in __path__
    for name in _os.listdir(folder)
):
    __path__ += [
        folder
        for folder in (_os.path.join(p, "fastcorr", "_kernels") for p in _sys.path)
        if _os.path.isdir(folder) and folder not in __path__
    ]

"""The benchmarks, as asv wants them: a package.

asv imports the modules of this folder as `benchmarks.…`; `python benchmarks/compare.py` runs
them from the folder itself.  They find each other by their plain names in both cases.
"""

import sys
from pathlib import Path

_HERE = str(Path(__file__).parent)
if _HERE not in sys.path:
    sys.path.append(_HERE)

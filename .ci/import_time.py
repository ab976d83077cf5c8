"""Fail if `import fastrnn` costs more than 50 ms beyond NumPy and SciPy's cython_blas.

Of processor time, in the quickest of some fresh processes: other work on the machine must not decide.
"""

import subprocess
import sys

BASE = "import time; t = time.process_time(); import numpy, scipy.linalg.cython_blas; b = time.process_time()"
CODE = BASE + "; import fastrnn; print(time.process_time() - b)"
times = [float(subprocess.check_output([sys.executable, "-c", CODE])) for _ in range(9)]
cost = min(times) * 1e3
print(f"import fastrnn: {cost:.0f} ms beyond NumPy and SciPy's BLAS")
sys.exit(cost > 50)

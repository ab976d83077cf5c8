"""Fail if `import fastrnn` costs more than 50 ms beyond NumPy and SciPy's cython_blas (median of fresh processes)."""

import statistics
import subprocess
import sys

BASE = "import time; t = time.perf_counter(); import numpy, scipy.linalg.cython_blas; b = time.perf_counter()"
CODE = BASE + "; import fastrnn; print(time.perf_counter() - b)"
times = [float(subprocess.check_output([sys.executable, "-c", CODE])) for _ in range(9)]
cost = statistics.median(times) * 1e3
print(f"import fastrnn: {cost:.0f} ms beyond NumPy and SciPy's BLAS")
sys.exit(cost > 50)

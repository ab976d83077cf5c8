"""Fail if `import fastrnn` costs more than a fifth of what NumPy and SciPy's cython_blas cost before it.

Of processor time, in one process, the quickest of some: neither the machine's speed nor other work on it must decide.
"""

import subprocess
import sys

LIMIT = 0.2
CODE = """
import time
start = time.process_time()
import numpy, scipy.linalg.cython_blas
between = time.process_time()
import fastrnn
print(between - start, time.process_time() - between)
"""
processes = [subprocess.check_output([sys.executable, "-c", CODE], text=True).split() for _ in range(9)]
needed, own = (min(map(float, times)) * 1e3 for times in zip(*processes, strict=True))
print(f"import fastrnn: {own:.0f} ms; NumPy and SciPy's BLAS before it: {needed:.0f} ms")
sys.exit(own > LIMIT * needed)

"""Builds the one extension module; everything else about the package is in pyproject.toml."""

import os
import sys
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

# SIMD kernels choose their instruction set at run time: no -march here, and no -ffast-math.
# Contraction of a*b + c to one rounding is what the kernels are written for.
if sys.platform == "win32":
    COMPILE, LINK = ["/O2", "/std:c11", "/experimental:c11atomics"], []
else:
    COMPILE = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fvisibility=hidden", "-g0", "-pthread"]
    COMPILE += ["-Wall", "-Wno-unused-function"]
    LINK = ["-pthread"]
NO_THREADS = [("FRNN_NO_THREADS", "1")] if os.environ.get("FASTRNN_NO_THREADS") else []


extension = Extension(
    "fastrnn._core.native",
    sources=["fastrnn/_core/native.pyx", *sorted(glob("csrc/**/*.c", recursive=True))],
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), *NO_THREADS],
    extra_compile_args=COMPILE,
    extra_link_args=LINK,
)

setup(ext_modules=cythonize([extension], build_dir="build/cython"))

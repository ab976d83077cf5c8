"""Builds the one extension module; everything else about the package is in pyproject.toml."""

import os
import subprocess
import sys
import tempfile
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

# SIMD kernels choose their instruction set at run time: no -march here, and no -ffast-math.
# Contraction of a*b + c to one rounding is what the kernels are written for.
if sys.platform == "win32":
    COMPILE, LINK = ["/O2", "/std:c11", "/experimental:c11atomics"], []
else:
    COMPILE = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", "-Wno-unused-function"]
    LINK = []


def openmp_flags() -> tuple[list[str], list[str]]:
    """Compile and link flags for OpenMP; empty where a program that needs it does not build."""
    if sys.platform == "win32":
        return ["/openmp"], []
    compiler = os.environ.get("CC", "cc").split()
    candidates = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.c")
        with open(source, "w") as file:
            file.write("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        for compile_flags, link_flags in candidates:
            command = [*compiler, *compile_flags, source, "-o", os.path.join(folder, "probe"), *link_flags]
            try:
                if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                    return compile_flags, link_flags
            except OSError:
                break
    print("fastrnn: no OpenMP here; building for one thread", file=sys.stderr)
    return [], []


openmp_compile, openmp_link = ([], []) if os.environ.get("FASTRNN_NO_OPENMP") else openmp_flags()

extension = Extension(
    "fastrnn._core.native",
    sources=["fastrnn/_core/native.pyx", *sorted(glob("csrc/**/*.c", recursive=True))],
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=COMPILE + openmp_compile,
    extra_link_args=LINK + openmp_link,
)

setup(ext_modules=cythonize([extension], build_dir="build/cython"))

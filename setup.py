"""Builds the one extension module; everything else about the package is in pyproject.toml."""

import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from itertools import chain

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

# SIMD kernels choose their instruction set at run time: no -march here, and no -ffast-math.
# Contraction of a*b + c to one rounding is what the kernels are written for.
if sys.platform == "win32":  # by clang-cl: Microsoft's own compiler has no vectors, so its kernels are scalar
    CLANG_CL = shutil.which("clang-cl")
    COMPILE = ["/O2", "/std:c11"]
    COMPILE += ["/clang:-O3", "/clang:-ffp-contract=fast"] if CLANG_CL else ["/experimental:c11atomics"]
    LINK = ["synchronization.lib"]  # where threads sleep
else:
    COMPILE = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fvisibility=hidden", "-g0", "-pthread"]
    COMPILE += ["-Wall", "-Wno-unused-function"]
    LINK = ["-pthread"] + ["-Wl,-s"] * sys.platform.startswith("linux")  # names of functions are 3 % of a wheel
NO_THREADS = [("FRNN_NO_THREADS", "1")] if os.environ.get("FASTRNN_NO_THREADS") else []
OPENMP = [] if NO_THREADS or sys.platform == "win32" else ["-fopenmp"]


class BuildExtension(build_ext):
    """Compiles on all cores, and without OpenMP where the compiler does not have it, as on macOS."""

    def build_extensions(self):
        if OPENMP and not self.has_openmp():
            for extension in self.extensions:
                extension.extra_compile_args = [word for word in extension.extra_compile_args if word not in OPENMP]
                extension.extra_link_args = [word for word in extension.extra_link_args if word not in OPENMP]
        if sys.platform == "win32":
            self.compiler.initialize()  # finds the linker, headers and libraries
            self.compiler.cc = CLANG_CL or self.compiler.cc
        self.compiler.compile = self.in_parallel(self.compiler.compile)
        super().build_extensions()

    def in_parallel(self, compile_all):
        """`compile_all`, the compiler's own way from sources to objects, called for each source in a pool of threads.

        setuptools compiles one source of an extension after another: its option `parallel` is for several extensions.
        """

        def compile_each(sources, **options):
            with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
                return list(chain.from_iterable(pool.map(lambda source: compile_all([source], **options), sources)))

        return compile_each

    def has_openmp(self):
        """Whether a program that uses it compiles and links."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "openmp.c")
            with open(source, "w") as file:
                file.write("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([source], output_dir=folder, extra_postargs=OPENMP)
                self.compiler.link_executable(objects, os.path.join(folder, "openmp"), extra_postargs=OPENMP)
            except (CompileError, LinkError):
                return False
        return True


extension = Extension(
    "fastrnn._core.native",
    sources=["fastrnn/_core/native.pyx", *sorted(glob("csrc/**/*.c", recursive=True))],
    depends=[
        *sorted(glob("fastrnn/_core/*.pxi")),
        *sorted(glob("csrc/**/*.h", recursive=True)),
        "fastrnn/include/fastrnn/capi.h",
    ],
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), *NO_THREADS],
    extra_compile_args=COMPILE + OPENMP,
    extra_link_args=LINK + OPENMP,
)

setup(ext_modules=cythonize([extension], build_dir="build/cython"), cmdclass={"build_ext": BuildExtension})

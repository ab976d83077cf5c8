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
from setuptools.errors import CompileError, LinkError, PlatformError

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
# Wheels are built without OpenMP: each would have to carry a library of it beside the one that other packages bring.
NO_OPENMP = NO_THREADS or os.environ.get("FASTRNN_NO_OPENMP") or sys.platform == "win32"
OPENMP = [] if NO_OPENMP else ["-fopenmp"]
NOT_BUILT = (CompileError, LinkError, PlatformError)  # the last where Visual C++ is looked for in vain


class BuildExtension(build_ext):
    """Compiles on all cores, and without OpenMP where the compiler does not have it, as on macOS."""

    def build_extensions(self):
        if sys.platform == "win32":
            self.use_clang_cl()
        if not self.builds("#include <Python.h>"):
            if self.builds("#include <stdlib.h>"):
                self.give_up("the C compiler does not find Python.h, which is among Python's development files")
            self.give_up("there is no C compiler that works")
        if OPENMP and not self.builds("#include <omp.h>", OPENMP):
            for extension in self.extensions:
                extension.extra_compile_args = [word for word in extension.extra_compile_args if word not in OPENMP]
                extension.extra_link_args = [word for word in extension.extra_link_args if word not in OPENMP]
        self.compiler.compile = self.in_parallel(self.compiler.compile)
        try:
            super().build_extensions()
        except NOT_BUILT as error:
            self.give_up(f"the C compiler did not accept fastrnn's code ({error})")

    def use_clang_cl(self):
        """Compile with it where it is; the linker, headers and libraries are Visual C++'s."""
        try:
            self.compiler.initialize()
        except NOT_BUILT:
            self.give_up("there is no C compiler that works")
        self.compiler.cc = CLANG_CL or self.compiler.cc

    def give_up(self, why):
        """End the build with a sentence that is the last line of what it prints."""
        documentation = self.distribution.metadata.project_urls["Documentation"]
        raise CompileError(
            f"fastrnn cannot be compiled here, because {why}; {documentation}how-to/install/ says which platforms need "
            "no compiler, and what to install on the others"
        ) from None

    def builds(self, header, flags=()):
        """Whether a module with this header compiles and links, with the flags of the environment."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "module.c")
            with open(source, "w") as file:
                file.write(f"{header}\nint fastrnn;\n")
            try:
                objects = self.compiler.compile([source], output_dir=folder, extra_postargs=list(flags))
                self.compiler.link_shared_object(objects, os.path.join(folder, "module.so"), extra_postargs=list(flags))
            except NOT_BUILT:
                return False
        return True

    def in_parallel(self, compile_all):
        """`compile_all`, the compiler's own way from sources to objects, called for each source in a pool of threads.

        setuptools compiles one source of an extension after another: its option `parallel` is for several extensions.
        """

        def compile_each(sources, **options):
            with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
                return list(chain.from_iterable(pool.map(lambda source: compile_all([source], **options), sources)))

        return compile_each


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

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastrnn

options = {"include_dirs": [fastrnn.get_include()]}
from_cython = cythonize(
    [Extension("capi_user.from_cython", ["capi_user/from_cython.pyx"], **options)],
    include_path=[str(Path(fastrnn.get_include()).parents[1])],  # for a fastrnn that is installed as editable
)
setup(
    packages=["capi_user"],
    ext_modules=[
        *from_cython,
        Extension("capi_user.example", ["capi_user/example.c"], **options),
        Extension("capi_user.from_c", ["capi_user/from_c.c"], **options),
        Extension("capi_user.from_cpp", ["capi_user/from_cpp.cpp"], language="c++", **options),
    ],
)

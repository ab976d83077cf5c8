"""The C code for Python: see csrc/fastrnn.h. Arguments have been validated, and are trusted."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from fastrnn.cell import Cell, Steps, Weights

class NativeCell:
    def __init__(self, cell: Cell, weights: Weights, packed_for: str | None = None, threads: int = 1) -> None: ...

def forward(
    cell: NativeCell, steps: Steps, x: NDArray, h0: NDArray, c0: NDArray | None, y: NDArray, h_n: NDArray,
    c_n: NDArray | None, gates: NDArray | None, cells: NDArray | None, threads: int,
) -> None: ...  # fmt: skip
def backward(
    cell: NativeCell, steps: Steps, x: NDArray, h0: NDArray, c0: NDArray | None, y: NDArray, gates: NDArray | None,
    cells: NDArray | None, dy: NDArray | None, dh_n: NDArray, dc_n: NDArray | None, dx: NDArray, dh0: NDArray,
    dc0: NDArray | None, dweights: Weights, threads: int,
) -> None: ...  # fmt: skip

class NativeStepper:
    def __init__(
        self, cells: list[NativeCell], outputs: list[NDArray], h: NDArray, c: NDArray | None,
        get_threads: Callable[[], int],
    ) -> None: ...  # fmt: skip
    def __call__(self, x: NDArray, out: NDArray) -> None: ...

# The capsules are those of scipy.linalg.cython_blas.__pyx_capi__, the addresses 0 where there is no such function.
def install_blas(capsules: Mapping[str, Any], set_threads: int, get_threads: int) -> int: ...
def isa_names() -> tuple[str, ...]: ...
def isa_select(name: str) -> bool: ...
def isa_selected() -> str: ...
def insist_on_teams(split: str | None) -> None: ...
def has_threads() -> bool: ...
def activation(name: str, x: NDArray, y: NDArray) -> None: ...
def gemm(ta: bool, tb: bool, a: NDArray, b: NDArray, beta: bool, c: NDArray) -> None: ...
def probe_multiply_add(itemsize: int, repeats: int) -> tuple[int, float]: ...
def probe_read(data: NDArray, repeats: int) -> tuple[int, float]: ...

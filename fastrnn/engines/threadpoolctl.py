"""Makes threadpoolctl, where it is installed, list fastrnn and limit its threads.

threadpoolctl is imported along with fastrnn, as SciPy does it. This takes 1.0 to 1.7 ms where it is installed and 0.1
ms where it is not, of some 40 ms for fastrnn itself. A hook that waits until somebody else imports threadpoolctl would
save that, but it would also take part in every later import of the program.
"""

from __future__ import annotations

from fastrnn._core import native
from fastrnn.engines import threads
from fastrnn.version import __version__

__all__: list[str] = []

try:
    from threadpoolctl import LibController, register
except ImportError:  # it is not installed, or so old that it has no register()
    pass
else:

    class Controller(LibController):
        """The number of threads of the process; a ``with num_threads(n)`` block of the calling thread still decides."""

        user_api = "fastrnn"
        internal_api = "fastrnn"
        filename_prefixes = ("native.",)  # of the extension module; other packages may have one of that name,
        check_symbols = ("fastrnn_get_num_threads", "fastrnn_set_num_threads")  # but not with these

        def get_num_threads(self) -> int:
            return self.dynlib.fastrnn_get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.fastrnn_set_num_threads(num_threads)

        def get_version(self) -> str:
            return __version__

        def set_additional_attributes(self) -> None:
            """What `threadpool_info()` shows besides, under the names that it has for BLAS libraries."""
            self.threading_layer = threads.get_threading()
            self.architecture = native.isa_selected()

    register(Controller)

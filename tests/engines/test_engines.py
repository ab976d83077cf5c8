"""The seam: which engines there are, and which one a call uses."""

import pytest
from running import in_threads, output_of

from fastrnn import engines


def test_the_reference_is_there_and_last() -> None:
    """Fastest first; nothing is slower."""
    assert engines.available()[-1] == "reference"
    assert len(set(engines.available())) == len(engines.available())


def test_the_fastest_is_the_default() -> None:
    code = "import fastrnn; print(fastrnn.engines.current().name)"
    assert output_of(code).strip() == engines.available()[0]
    for name in engines.available():
        assert output_of(code, FASTRNN_ENGINE=name).strip() == name


def test_use_is_for_a_while_and_nests() -> None:
    before = engines.current()
    with engines.use("reference"):
        assert engines.current().name == "reference"
        with engines.use(engines.available()[0]):
            assert engines.current().name == engines.available()[0]
        assert engines.current().name == "reference"
    assert engines.current() is before


def test_use_ends_with_an_error() -> None:
    before = engines.current()
    with pytest.raises(KeyError), engines.use("reference"):
        raise KeyError
    assert engines.current() is before


@pytest.mark.parametrize("name", engines.available())
def test_use_is_for_the_calling_thread(name: str) -> None:
    default = output_of("import fastrnn; print(fastrnn.engines.current().name)").strip()
    others = []
    with engines.use(name):
        import threading

        thread = threading.Thread(target=lambda: others.append(engines.current().name))
        thread.start()
        thread.join()
    assert others == [default]
    assert in_threads(name, [lambda: engines.current().name] * 2) == [name, name]


@pytest.mark.parametrize("name", ["Reference", "", "warp", None, 3])
def test_use_of_an_engine_that_is_not_there(name: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^name: expected one of .*reference"), engines.use(name):
        pass

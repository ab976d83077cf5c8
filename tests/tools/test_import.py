"""What `import fastrnn` loads and how much it does: counted, so that no machine's speed decides."""

from running import output_of

NEEDED = "import sys, numpy, scipy.linalg.cython_blas"  # a program that uses fastrnn has these anyway


def test_no_other_package_is_imported():
    code = f"""
    {NEEDED}
    before = set(sys.modules)
    import fastrnn
    print(*{{name.split(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names)
    """
    # Cython puts its shared types into a module named after its version; threadpoolctl is told of us where it is there.
    imported = {name for name in output_of(code).split() if not name.startswith("_cython_")}
    assert imported - {"threadpoolctl"} == {"fastrnn"}


def test_the_kit_is_imported_when_it_is_used():
    code = """
    import sys, fastrnn
    kit = [f"fastrnn.{name}" for name in ("data", "inspect", "metrics", "nn", "optim", "train")]
    print(sum(name in sys.modules for name in kit), "scipy.sparse" in sys.modules)
    print(fastrnn.nn.Linear.__name__, fastrnn.inspect.gates.__name__, "rich" in sys.modules)
    """
    assert output_of(code).split() == ["0", "False", "Linear", "gates", "False"]


def test_the_import_does_little():
    """At most a tenth of the calls of functions that NumPy and SciPy's BLAS take before it."""
    code = f"""
    import sys
    events = 0

    def count(*_):
        global events
        events += 1

    sys.setprofile(count)
    {NEEDED}
    needed = events
    import fastrnn
    sys.setprofile(None)
    print(needed, events - needed)
    """
    needed, own = map(int, output_of(code).split())
    assert 0 < own < needed / 10

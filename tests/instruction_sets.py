"""The instruction sets that tests go through."""

from fastrnn._core import native

# Every set of this machine, for products with weights of fewer bits.
ALL = native.isa_names()
# A set named <other>_<instructions> is, but for those products, <other>.
DISTINCT = tuple(name for name in ALL if "_" not in name)

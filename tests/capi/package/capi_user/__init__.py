"""Users of fastrnn's C interface: a module in C, one in C++ and one in Cython."""

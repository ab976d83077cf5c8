"""Users of fastrnn's C interface in C, C++ and Cython; example.c and from_cython.pyx are shown in its documentation."""

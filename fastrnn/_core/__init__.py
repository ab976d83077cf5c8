"""Compiled code: unpack pointers, release the GIL, one C call. Everything passed in has been validated."""

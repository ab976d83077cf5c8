"""``python -m fastrnn``: the command line."""

from fastrnn.cli import main

if __name__ == "__main__":
    main()

"""Whole models beside PyTorch and JAX: ``fastrnn bench --models``, and its options. README.md says what is measured.

python benchmarks/whole_models.py --threads 2                       # all rows: some minutes
python benchmarks/whole_models.py --quick
python benchmarks/whole_models.py --only words-medium --rounds 11 --json numbers.json
"""

import sys

from fastrnn.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "--models"]
    main()

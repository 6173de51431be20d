"""What all tests share."""

import os

# Small problems gain nothing from threads, and lose much where cores are shared; processes that
# tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # importing dcor hands torch all cores again

"""What all tests need."""

import os
import signal

# Whoever starts the tests in the background may have SIGINT ignored, and so would every process started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Of tests that run side by side each has a core, and so have the processes that it starts; read when torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

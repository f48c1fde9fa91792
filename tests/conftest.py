"""What all tests need."""

import signal

# Whoever starts the tests in the background may have SIGINT ignored, and so would every process started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

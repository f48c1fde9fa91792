"""The time of a run, which decides what else is run, is not that of waiting."""

import time

from autoadapt.contracts import clocks


def test_waiting_does_not_count():
    began = clocks.start()
    time.sleep(0.3)
    assert clocks.since(began) < 0.2


def test_work_does():
    began, until = clocks.start(), time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert clocks.since(began) >= 0.1

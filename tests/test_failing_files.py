"""Whichever operation on files fails, a writer ends in an error of ours, and what is there is the old or the new."""

import pytest
from bounded_children import run_bounded

WRITERS = ("save", "whole", "signature", "html", "source", "state", "rank", "export")


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_a_failing_disk_is_an_error_of_ours_wherever_it_fails(writer, tmp_path):
    assert run_bounded("failing_files:FAILED", writer, tmp_path).said == "returned a NoneType"

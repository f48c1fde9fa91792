"""Small files that would take hours or gigabytes are refused in seconds, by the limit that they break."""

import bounded_children
import hostile_files
import hostile_numbers
import pytest
import torch
from bounded_children import run_bounded

SLOW = {"100,000 names", "100,000 names that end alike", "a depth of 10^6 in a config"}
"""What takes seconds until it is known that the limit is hit."""


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in hostile_files.HOSTILE]
)
def test_a_hostile_file_is_refused_within_ten_seconds_and_a_gigabyte(name, tmp_path):
    outcome = run_bounded("hostile_files:HOSTILE", name, tmp_path)
    assert outcome.said.startswith("AdaptError"), outcome
    assert outcome.seconds < bounded_children.MOST_SECONDS
    assert outcome.bytes < bounded_children.MOST_BYTES


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", hostile_numbers.REFUSED)
def test_a_number_that_asks_for_gigabytes_is_refused_before_they_are_taken(name, tmp_path):
    outcome = run_bounded("hostile_numbers:REFUSED", name, tmp_path)
    assert outcome.said.startswith("AdaptError"), outcome
    assert "not enough memory" not in outcome.said
    assert "can't allocate" not in outcome.said
    assert "Unable to allocate" not in outcome.said
    assert outcome.bytes < bounded_children.MOST_BYTES / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile_numbers.TAKEN)
def test_large_numbers_that_need_no_memory_are_taken(name, tmp_path):
    outcome = run_bounded("hostile_numbers:TAKEN", name, tmp_path)
    assert outcome.said.startswith("returned"), outcome


@pytest.mark.slow
def test_as_many_chained_parts_as_the_limit_says_are_assembled(tmp_path):
    assert hostile_files.chained(tmp_path, 200)(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 14, 14)


def test_a_child_beyond_the_limits_is_killed_and_said_to_be(tmp_path):
    assert run_bounded("bounded_children:BEYOND", "memory", tmp_path).said == "killed: too much memory"
    assert run_bounded("bounded_children:BEYOND", "error", tmp_path).said == "ZeroDivisionError: division by zero"

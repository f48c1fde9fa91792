"""Fitting finds back the dim that made the samples, as simply as the samples allow."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from autoadapt.contracts.dims import Dim, distinguishing_size, fit

LONG = 6720
PROBES = [
    {"B": 2, "H": 224, "W": 224},
    {"B": 3, "H": 225, "W": 224 + LONG},
    {"B": 5, "H": 224 + LONG, "W": 223},
    {"B": 1, "H": 223, "W": 225},
    {"B": 2, "H": 226, "W": 227},
]
SIZES = [{"H": size} for size in (*range(197, 420), 1000, 1531, 7001, 224 + LONG + 1)]
LEVELS = ["ceil(H/8)", "ceil(W/8)", "ceil(H/16)", "ceil(W/16)", "ceil(H/32)", "ceil(W/32)"]


def seen(dim, points):
    return [(point, dim.evaluate(point)) for point in points]


def probe(dim, points=SIZES, most=60):
    """What capture does: fit, probe where candidates differ, hold sizes out; dense sizes at last."""
    samples = seen(dim, [{"H": size} for size in (224, 225, 224 + LONG, 223, 226)])
    for _ in range(most):
        candidates = fit(samples)
        if not candidates:
            break
        point = distinguishing_size(candidates, points)
        if point is None:
            wrong = [held for held in points if candidates[0].evaluate(held) != dim.evaluate(held)]
            if not wrong:
                return candidates[0]
            point = wrong[0]
        samples += seen(dim, [point])
    return fit(seen(dim, [{"H": size} for size in range(200, 900)]))[0]


def convolved(size, kernel, stride):
    return (size + 2 * (kernel // 2) - kernel) // stride + 1


def pooled(size, kernel, stride):
    return (size - kernel).ceildiv(stride) + 1


layers = st.one_of(
    st.builds(lambda k, s: lambda x: convolved(x, k, s), st.integers(1, 7), st.sampled_from([1, 2, 2, 3, 4])),
    st.builds(lambda k, s: lambda x: pooled(x, k, s), st.integers(2, 3), st.integers(1, 2)),
    st.just(lambda x: 2 * x),
    st.just(lambda x: 3 * x // 2),
)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=40, database=None)
@given(st.lists(layers, min_size=1, max_size=5))
def test_a_chain_of_layers_is_found_back_from_probes(chain):
    dim = Dim.axis("H")
    for layer in chain:
        dim = layer(dim)
    assert probe(dim) == dim


@pytest.mark.parametrize(
    "text",
    [
        "ceil(H/32)",
        "floor((H - 3)/2)",
        "2*ceil(H/32)",
        "floor(2*ceil(H/32)/3)",
        "max(7, floor(H/32)) - 6",
        "3*floor((H + 60)/97) - 5",
        "7 - floor(H/4)",
        "H - floor(H/7) + floor((H + 3)/5)",
    ],
)
def test_one_axis_is_found_back_from_probes(text):
    assert probe(Dim.parse(text)) == Dim.parse(text)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["ceil(H/512)", "2*floor(H/768) + 1"])
def test_strides_above_256_are_found_where_sizes_lie_far_enough_apart(text):
    far = [*SIZES, *({"H": size} for size in range(420, 2500))]
    assert probe(Dim.parse(text), far) == Dim.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "64",
        "B",
        "4*B",
        "W - 5",
        "ceil(W/32)",
        "ceil(H/32)",
        "H*W",
        "B*H*W",
        "B*ceil(W/7)",
        "floor(H/14)*floor(W/14) + 1",
        "49*B*ceil(H/7)*ceil(W/7)",
    ],
)
def test_five_probes_of_all_axes_at_once_settle_common_forms(text):
    dim = Dim.parse(text)
    assert [str(found) for found in fit(seen(dim, PROBES))] == [text]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("(ceil(H/2) - 2)*ceil((W - 1)/14) + 1", ["ceil(H/2) - 2", "ceil((W - 1)/14)", *LEVELS]),
        ("ceil(H/8)*ceil(W/8) + ceil(H/16)*ceil(W/16) + ceil(H/32)*ceil(W/32)", LEVELS),
        ("B*ceil(H/8)*ceil(W/8) + B*ceil(H/32)*ceil(W/32)", LEVELS),
        ("floor(2*ceil(H/3)/5)", ["floor(2*ceil(H/3)/5)"]),
    ],
)
def test_known_dims_explain_products_and_sums(text, known):
    dim = Dim.parse(text)
    assert fit(seen(dim, PROBES), known=map(Dim.parse, known))[0] == dim


@pytest.mark.parametrize(
    "text", ["(2*floor(H/3) + 1)*(ceil(W/5) + 3)", "B*(floor(H/3) + 1)*ceil(W/5)", "(H - 1)*floor(W/4) + 9"]
)
def test_lines_along_one_axis_explain_products_of_unknown_factors(text):
    dim = Dim.parse(text)
    lengths = (190, 198, 199, 200, 201, 202, 300, 6911)
    lines = [{"B": 2, "H": 200, "W": 200} | {axis: size} for axis in "HW" for size in lengths]
    rest = [{"B": 3, "H": 231, "W": 517}, {"B": 1, "H": 2310, "W": 500}, {"B": 7, "H": 31, "W": 57}]
    assert fit(seen(dim, [*lines, *rest]))[0] == dim


@pytest.mark.parametrize(
    ("text", "step", "rest"),
    [
        ("H", 32, 0),
        ("floor(H/32)", 32, 0),
        ("floor(H/16) - 1", 16, 1),
        ("floor(H/14)", 32, 0),
        ("3*floor(H/4)", 4, 2),
    ],
)
def test_forms_that_agree_on_legal_sizes_are_one_and_the_simplest_is_returned(text, step, rest):
    dim = Dim.parse(text)
    legal = [{"H": step * unit + rest} for unit in (*range(5, 20), 216)]
    found = fit(seen(dim, legal), steps={"H": (step, rest)})
    assert [str(candidate) for candidate in found] == [text]


def test_every_candidate_agrees_with_every_sample():
    samples = seen(Dim.parse("floor((W + 3)/14)"), PROBES)
    found = fit(samples)
    assert len(found) > 1
    assert all(dim.evaluate(sizes) == value for dim in found for sizes, value in samples)
    assert found == fit(samples)


def test_dense_samples_show_any_quasi_linear_form():
    dim = Dim.parse("H - floor(H/7) + floor((H + 3)/5) - 2*floor(2*floor((H + 1)/2)/3)")
    period = math.lcm(7, 5, 6)
    assert fit(seen(dim, [{"H": size} for size in range(9, 12 + 2 * period)])) == [dim]


def test_what_no_form_explains_has_no_fit():
    assert fit([({"H": 1}, 1), ({"H": 2}, 5), ({"H": 3}, 2), ({"H": 4}, 9)]) == []
    assert fit([({"H": 1}, 1), ({"H": 1}, 2)]) == []
    assert fit([]) == []


def test_only_the_axes_asked_for_are_used():
    samples = seen(Dim.parse("H"), [{"H": size, "W": size} for size in (3, 50, 7000)])
    assert fit(samples, axes=["W"])[0] == Dim.axis("W")
    assert fit(samples)[0] == Dim.axis("H")


def test_a_known_dim_is_found_scaled_and_shifted():
    dim = Dim.parse("2*floor(2*ceil(H/3)/5) + 1")
    samples = seen(dim, [{"H": size} for size in (*range(100, 116), 6911)])
    assert [str(found) for found in fit(samples, known=[Dim.parse("floor(2*ceil(H/3)/5)")])] == [str(dim)]


def test_a_known_dim_comes_before_other_forms_that_agree():
    samples = seen(Dim.parse("floor((W + 3)/14)"), PROBES)
    found = fit(samples, known=[Dim.parse("floor((W + 9)/14)")])
    assert found[0] == Dim.parse("floor((W + 9)/14)")
    assert sorted(map(str, found)) == sorted(map(str, fit(samples)))


def test_the_most_telling_size_splits_the_largest_set():
    floors = [Dim.parse(f"floor((H + {shift})/8)") for shift in range(8)]
    assert distinguishing_size(floors, [{"H": size} for size in range(16, 24)]) == {"H": 20}
    assert distinguishing_size(floors[:1], [{"H": 3}]) is None
    assert distinguishing_size(floors, []) is None

"""Random dims, each beside the plain Python function that it must equal."""

from hypothesis import strategies as st

from autoadapt.contracts.dims import Dim

AXES = ("B", "H", "W")


def expressions(depth=4):
    """Pairs (dim, function from sizes to int) built by the same random steps."""
    leaves = st.one_of(st.sampled_from(AXES).map(axis), st.integers(-9, 40).map(constant))
    for _ in range(depth):
        leaves = st.one_of(leaves, steps(leaves))
    return leaves


def axis(name):
    return Dim.axis(name), lambda at: at[name]


def constant(number):
    return Dim(number), lambda at: number


def steps(inner):
    small = st.integers(-9, 9)
    return st.one_of(
        st.builds(lambda a, n: (a[0] * n, lambda at: a[1](at) * n), inner, small),
        st.builds(lambda a, n: (n - a[0], lambda at: n - a[1](at)), inner, small),
        st.builds(lambda a, n: (a[0] // n, lambda at: a[1](at) // n), inner, st.integers(1, 8)),
        st.builds(lambda a, n: (a[0].ceildiv(n), lambda at: -(-a[1](at) // n)), inner, st.integers(1, 8)),
        st.builds(lambda a, n: (a[0].at_least(n), lambda at: max(n, a[1](at))), inner, small),
        st.builds(lambda a, b: (a[0] + b[0], lambda at: a[1](at) + b[1](at)), inner, inner),
        st.builds(lambda a, b: (a[0] * b[0], lambda at: a[1](at) * b[1](at)), leaf_or(inner), leaf_or(inner)),
    )


def leaf_or(inner):
    return st.one_of(st.sampled_from(AXES).map(axis), inner)

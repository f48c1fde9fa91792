"""How names are paired: stages, prefixes, order, patterns; pure, on lists of specs."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from weights_models import equal, snapshot

from autoadapt.errors import TransferError
from autoadapt.weights import POLICIES, transfer
from autoadapt.weights.names import pair_by_name
from autoadapt.weights.order import pair_by_order
from autoadapt.weights.patterns import matcher, merged
from autoadapt.weights.renaming import Renaming, read_renaming
from autoadapt.weights.tensor_specs import Spec


def specs(*names: str, shape: tuple[int, ...] = (2, 3)) -> list[Spec]:
    return [Spec(name, shape) for name in names]


def numbered(names: list[str]) -> list[Spec]:
    """Every name with a shape of its own."""
    return [Spec(name, (index + 1, 3)) for index, name in enumerate(names)]


def pairs(sources: list[Spec], targets: list[Spec]) -> dict[str, str]:
    return {s: t for s, (t, _) in pair_by_name(sources, targets, Renaming()).pairs.items()}


NAMES = ["stem.conv.weight", "blocks.0.fc.weight", "blocks.1.fc.weight", "head.weight"]


@pytest.mark.parametrize(
    ("front", "back"),
    [
        ("module.", ""),
        ("_orig_mod.", ""),
        ("model.backbone.", ""),
        ("", "backbone."),
        ("model.", "net.body."),
        ("0.", ""),
    ],
)
def test_one_prefix_is_exchanged_for_another(front: str, back: str) -> None:
    found = pairs(numbered([front + n for n in NAMES]), numbered([back + n for n in NAMES]))
    assert found == {front + n: back + n for n in NAMES}


def test_a_prefix_is_not_exchanged_on_the_evidence_of_a_few_layers() -> None:
    # `blocks.12.` of a deeper model is not `layers.5.`, however well one block's shapes fit.
    leaves = ("attn.weight", "mlp.weight")
    sources = [Spec(f"blocks.{i}.{leaf}", (8 + i, 8)) for i in range(12) for leaf in leaves]
    targets = [Spec(f"layers.3.{leaf}", (11, 8)) for leaf in leaves] + [Spec("big.weight", (500, 500))]
    assert pairs(sources, targets) == {}


def test_suffixes_pair_what_has_prefixes_of_many_kinds() -> None:
    sources = numbered(["a.x.conv1.weight", "b.y.z.conv2.weight", "conv3.weight"])
    targets = numbered(["conv1.weight", "z.conv2.weight", "new.conv3.weight"])
    assert pairs(sources, targets) == {s.name: t.name for s, t in zip(sources, targets, strict=True)}


def test_a_suffix_that_two_names_share_pairs_nothing() -> None:
    sources = [*specs("a.fc.weight", "b.fc.weight"), Spec("c.other.weight", (9, 9))]
    targets = [*specs("fc.weight"), Spec("c.other.weight", (9, 9))]
    with pytest.raises(TransferError, match="two prefixes fit equally well"):
        pairs(sources, targets)
    three = [*sources, Spec("b.norm.weight", (4,))], [*targets, Spec("x.norm.weight", (5,))]
    assert "c.other.weight" in pairs(three[0], [t for t in three[1] if t.name != "fc.weight"])


def test_the_last_segment_alone_is_no_evidence() -> None:
    assert pairs(numbered(["a.weight", "b.weight"]), [Spec("x.weight", (9, 9)), Spec("y.weight", (1, 3))]) == {}


def test_rules_come_before_exact_names() -> None:
    report = transfer(
        {"a.weight": torch.ones(2, 2), "b.weight": torch.zeros(2, 2)},
        nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)}),
        rename={r"^a\.": "tmp.", r"^b\.": "a.", r"^tmp\.": "b."},
    )
    assert {e.name: (e.target, e.stage) for e in report.sources} == {
        "a.weight": ("b.weight", "rule"),
        "b.weight": ("a.weight", "rule"),
    }


def test_a_rule_and_a_prefix_work_together() -> None:
    sources = [*numbered([f"module.{n}" for n in NAMES[:3]]), Spec("module.classifier.weight", (4, 3))]
    rules = read_renaming({r"classifier\.": "head."})
    found = pair_by_name(sources, numbered(NAMES), rules).pairs
    assert found["module.classifier.weight"] == ("head.weight", 'prefix "module." removed')


# Order


def test_order_pairs_numbered_names_on_both_sides() -> None:
    found = pair_by_order(specs("_conv0.weight", "_conv1.weight"), specs("conv.weight", "conv2.weight"))
    assert found == [("_conv0.weight", "conv.weight"), ("_conv1.weight", "conv2.weight")]


def test_order_pairs_the_same_words_on_both_sides() -> None:
    sources, targets = specs("a.q.weight", "a.k.weight"), specs("b.q.weight", "b.k.weight")
    assert pair_by_order(sources, targets) == [("a.q.weight", "b.q.weight"), ("a.k.weight", "b.k.weight")]


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        (["reduce.weight", "expand.weight"], ["conv1.weight", "conv2.weight"]),
        (["conv1.weight", "conv2.weight"], ["reduce.weight", "expand.weight"]),
        (["conv2.weight", "conv1.weight"], ["conv1.weight", "conv2.weight"]),
        (["x.down.weight", "x.conv.weight"], ["x.conv.weight", "x.skip.weight"]),
        (["a.0.weight", "b.0.weight", "b.1.weight"], ["c.0.weight", "d.0.weight", "d.1.weight"]),
    ],
)
def test_order_is_refused_where_equal_shapes_could_change_places(sources: list[str], targets: list[str]) -> None:
    with pytest.raises(TransferError, match="order is ambiguous: layers of equal shape could change places"):
        pair_by_order(specs(*sources), specs(*targets))


def test_order_needs_no_names_where_all_shapes_differ() -> None:
    found = pair_by_order(numbered(["x.weight", "y.weight"]), numbered(["reduce.weight", "expand.weight"]))
    assert found == [("x.weight", "reduce.weight"), ("y.weight", "expand.weight")]


def test_order_lets_the_classifier_alone_differ() -> None:
    old = [Spec("a.weight", (8, 3)), Spec("fc.weight", (1000, 8))]
    assert pair_by_order(old, [Spec("b.weight", (8, 3)), Spec("head.weight", (10, 8))])[-1] == (
        "fc.weight",
        "head.weight",
    )
    with pytest.raises(TransferError, match="order does not match\nlayer 1"):
        pair_by_order(old, [Spec("b.weight", (9, 3)), Spec("head.weight", (1000, 8))])


# Patterns


INDEXED = st.builds(
    "{}.{}.{}".format,
    st.sampled_from("ab"),
    st.sampled_from(["0", "1", "2", "3", "9", "10", "11", "00", "01"]),
    st.sampled_from(["w", "b", "n.w"]),
)


@given(st.lists(INDEXED, unique=True, min_size=1), st.data())
def test_merged_patterns_say_exactly_the_names(names: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    tests = [matcher(pattern) for pattern in merged(chosen, names)]
    assert {name for name in names if any(test(name) for test in tests)} == set(chosen)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("stage2", "stage2.0.weight", "stage20.weight"),
        ("stage2.0", "stage2.0.weight", "a.stage2.0.weight"),
        ("*.bias", "a.b.bias", "a.b.bias2"),
        ("layer?.*", "layer1.w", "layer10.w"),
        ("layer[!12].w", "layer3.w", "layer1.w"),
        ("s{2..4}.w", "s3.w", "s34.w"),
        ("s{2,20}.w", "s20.w", "s3.w"),
        ("re:^a.*w$", "a.b.w", "b.a.w"),
        (re.compile("fc"), "head.fc.w", "head.w"),
    ],
)
def test_a_pattern_fits_what_it_says(pattern: str, yes: str, no: str) -> None:
    assert (matcher(pattern)(yes), matcher(pattern)(no)) == (True, False)


# The ledger adds up, whatever comes in

NAME = st.builds(
    "{}{}{}.{}".format,
    st.sampled_from(["", "module.", "net."]),
    st.sampled_from(["a", "b", "stage1", "stage2"]),
    st.sampled_from(["", ".0", ".1"]),
    st.sampled_from(["weight", "bias", "running_mean", "running_var"]),
)
SHAPE = st.sampled_from([(2,), (3,), (2, 3), (3, 3), (2, 3, 1, 1), ()])
STATE = st.dictionaries(NAME, SHAPE, min_size=1, max_size=12)
PATTERNS = st.lists(st.sampled_from(["a", "b.*", "stage{1..2}.*", "re:bias$", "module"]), max_size=2)


class Bag(nn.Module):
    """Tensors under given dotted names."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for index, (name, shape) in enumerate(shapes.items()):
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for segment in path:
                if segment not in owner._modules:
                    owner.add_module(segment, nn.Module())
                owner = owner._modules[segment]
            owner.register_parameter(leaf, nn.Parameter(torch.full(shape, -1.0 - index)))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    STATE,
    STATE,
    st.sampled_from(POLICIES),
    st.none() | PATTERNS,
    PATTERNS,
    PATTERNS,
    st.booleans(),
    st.sampled_from(["names", "order"]),
)
def test_every_tensor_of_either_side_stands_in_exactly_one_bucket(
    sources: dict,
    targets: dict,
    policy: str,
    include: list[str] | None,
    exclude: list[str],
    expect: list[str],
    dry_run: bool,
    match: str,
) -> None:
    state = {name: torch.full(shape, 1.0 + index) for index, (name, shape) in enumerate(sources.items())}
    model = Bag(targets)
    before = snapshot(model)
    try:
        report = transfer(
            state,
            model,
            shapes=policy,
            include=include,
            exclude=exclude,
            expect_missing=expect,
            expect_unexpected=expect,
            dry_run=dry_run,
            match=match,
        )
    except TransferError:
        assert equal(snapshot(model), before)
        return
    assert [e.name for e in report.sources] == list(state)
    assert [e.name for e in report.targets] == list(model.state_dict())
    assert sum(report.source_counts.values()) == len(state)
    assert sum(report.model_counts.values()) == len(targets)
    taken = Counter(e.target for e in report.sources if e.bucket in ("loaded", "converted"))
    assert taken == Counter(e.name for e in report.targets if e.bucket == "loaded")
    refused = Counter(e.target for e in report.sources if e.bucket == "mismatched")
    assert refused == Counter(e.name for e in report.targets if e.bucket == "mismatched")
    after = snapshot(model)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == (set() if dry_run else {name for name in taken if after[name].numel()})
    assert 0 <= report.share <= report.coverage <= 1
    assert max(len(line) for line in str(report).splitlines()) <= 80


class Named(nn.Module):
    """Two layers, or two parameters, of some names, and a head."""

    def __init__(self, first: str, second: str, layer: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        for name in (first, second):
            if layer is None:
                self.register_parameter(name, nn.Parameter(torch.rand(4, 4)))
            else:
                self.add_module(name, layer())
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize("layer", [lambda: nn.Linear(4, 4), lambda: nn.LayerNorm(64), None])
@pytest.mark.parametrize("new", [("value_a", "value_b"), ("a", "b"), ("my_query_a", "my_query_b")])
def test_names_that_end_alike_behind_an_underscore_are_others(layer: Callable[[], nn.Module], new: tuple[str, str]):
    report = transfer(Named("query_a", "query_b", layer), Named(*new, layer), dry_run=True)
    assert {e.bucket for e in report.sources if e.name.startswith("query")} == {"unexpected"}


@pytest.mark.parametrize("joiner", ["_", ""])
@pytest.mark.parametrize("front", ["", "ema.", "model_ema."])
def test_copies_that_are_kept_in_buffers_find_their_dots_again(joiner: str, front: str):
    model = Named("query_a", "query_b", lambda: nn.Linear(4, 4))
    flat = {front + name.replace(".", joiner): value for name, value in model.state_dict().items()}
    assert transfer(flat, Named("query_a", "query_b", lambda: nn.Linear(4, 4))).share == 1


def test_a_module_that_both_sides_have_lends_no_layer_to_another_place():
    inside = specs("x.attn.query.weight", "x.attn.key.weight", "x.attn.output.weight")
    model = specs("x.attn.query.weight", "x.attn.key.weight", "output.weight")
    assert "x.attn.output.weight" not in pairs(inside, model)
    assert "output.weight" not in pairs(model, inside)
    wrapped = [Spec(f"module.{spec.name}", spec.shape) for spec in inside]
    assert "module.x.attn.output.weight" not in pairs(wrapped, model)


def staged(word: str, *widths: int, first: int = 1) -> list[Spec]:
    return [
        Spec(f"{word}{i}.{layer}.{leaf}", (width, width))
        for i, width in enumerate(widths, first)
        for layer in (0, 1)
        for leaf in ("weight", "bias")
    ]


def test_renamed_stages_are_taken_together_with_the_one_that_explains_most():
    found = pair_by_name(staged("stage", 8, 16, 32, 512), staged("layer", 8, 16, 32, 512), Renaming())
    assert found.pairs["stage1.0.bias"] == ("layer1.0.bias", 'prefix "stage*." became "layer*."')
    assert len(found.pairs) == 16
    numbered = pair_by_name(staged("a.9.s", 8, 16, first=9), staged("b.9.t", 8, 16, first=9), Renaming())
    assert numbered.pairs["a.9.s10.1.weight"][0] == "b.9.t10.1.weight"
    assert len(numbered.pairs) == 8


def test_a_renamed_stage_that_fits_in_part_is_left_to_a_hint():
    model = [*staged("layer", 8, 16, 512), Spec("layer2.2.weight", (3,))]
    found = pair_by_name(staged("stage", 9, 16, 512), model, Renaming())
    assert set(found.sources) == {spec.name for spec in staged("stage", 9, 16)}
    assert {stage for _, stage in found.pairs.values()} == {'prefix "stage3." became "layer3."'}


def test_stages_that_are_numbered_otherwise_are_not_taken_together():
    found = pair_by_name(staged("stage", 8, 512), staged("layer", 8, 512, first=0), Renaming())
    assert set(found.sources) == {spec.name for spec in staged("stage", 8)}


@pytest.mark.measures
def test_ten_thousand_names_are_matched_within_a_second() -> None:
    plain = [
        Spec(f"stages.{i // 500}.blocks.{i // 5 % 100}.{leaf}.weight", (32 + i % 5, 32))
        for i, leaf in enumerate(["q", "k", "v", "up", "down"] * 2000)
    ]
    fronts = [Spec(f"part{i // 500}.{spec.name}", spec.shape) for i, spec in enumerate(plain)]
    module = [Spec(f"module.{spec.name}", spec.shape) for spec in plain]
    flat = [Spec("ema_" + spec.name.replace(".", "_"), spec.shape) for spec in plain]
    for sources in (plain, module, fronts, flat):
        seconds = []
        for _ in range(3):  # a busy machine shows in each, so the best counts
            start = time.process_time()
            found = pairs(sources, plain)
            seconds.append(time.process_time() - start)
        assert min(seconds) < 1
        assert len(found) == 10_000

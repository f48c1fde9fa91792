"""Rows of what counts things, norms that stay, and rows that are kept by index or in a known order."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from weights_models import Joints, PoseNet, randomised, rows, snapshot

from autoadapt.errors import TransferError
from autoadapt.weights import transfer
from autoadapt.weights.conversions import POLICIES, Conversion, Wish, convert, plan
from autoadapt.weights.keeping import orders
from autoadapt.weights.tensor_specs import Spec

# Counts


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("kind", "counts"),
    [("dekr", (2185, 7, 72)), ("swahr", (1807, 21, 0)), ("higher", (1805, 5, 0))],
)
def test_pose_networks_count_as_they_do_for_who_trained_them(kind: str, counts: tuple[int, int, int]) -> None:
    report = transfer(Joints(kind, 17), Joints(kind, 14))
    found = report.source_counts
    assert (found["loaded"], found["mismatched"], found.get("unexpected", 0)) == counts
    assert sum(counts) == len(report.sources)


def test_the_count_of_a_norm_that_averages_over_all_batches_is_held_back_with_it() -> None:
    source, model = (nn.Sequential(nn.Conv2d(1, n, 1), nn.BatchNorm2d(n, momentum=None)) for n in (4, 3))
    randomised(source, 1)
    model.append(nn.Conv2d(1, 1, 1))
    report = transfer({**source.state_dict(), **model[2:].state_dict(prefix="")}, model, min_coverage=0)
    assert report.source_counts["held"] == report.model_counts["held"] == 1
    held = next(e for e in report.targets if e.bucket == "held")
    assert (held.name, held.how, held.expected) == ("1.num_batches_tracked", "held back with its norm", True)
    assert int(model[1].num_batches_tracked) == 0
    assert "held back" in str(report)


def test_one_map_more_than_key_points_stays_the_last() -> None:
    source, model = randomised(rows(18), 1), randomised(rows(15), 2)
    report = transfer(source, model, shapes="slice")
    taken = [*range(14), 17]
    assert torch.equal(model["head"].weight, source["head"].weight[taken])
    assert torch.equal(model["head"].bias, source["head"].bias[taken])
    assert report.sources[0].how == "slice: 18 -> 15 on the output axis (key points + 1), rows 0-13, 17"
    assert "COCO and CrowdPose order joints differently" in str(report).replace("\n            ", " ")


def test_rows_that_two_readings_claim_are_left_with_both_readings() -> None:
    source, model = randomised(rows(34), 1), randomised(rows(28), 2)
    before = snapshot(model)
    report = transfer(source, model, shapes="slice")
    assert torch.equal(model["head"].weight, before["head.weight"])
    assert report.sources[0].how == (
        "34 -> 28 on the output axis (2 per key point); "
        'rows 0-13, 17-30 by blocks of 17 (shapes "blocks"), rows 0-27 by 2 for each (shapes "groups")'
    )


@pytest.mark.parametrize(("policy", "taken"), [("blocks", [*range(14), *range(17, 31)]), ("groups", [*range(28)])])
def test_heat_maps_and_tags_are_taken_by_blocks_or_by_groups_as_said(policy: str, taken: list[int]) -> None:
    source, model = randomised(rows(34), 1), randomised(rows(28), 2)
    assert transfer(source, model, shapes={"head": policy}).ok
    assert torch.equal(model["head"].weight, source["head"].weight[taken])


def test_the_layer_that_reads_the_maps_keeps_its_features_and_takes_rows_of_its_input() -> None:
    source, model = randomised(PoseNet(17), 1), randomised(PoseNet(14), 2)
    report = transfer(source, model, shapes={"deconv_layers.*": "blocks", "*": "groups"})
    old, new = source.deconv_layers[0].weight, model.deconv_layers[0].weight
    assert torch.equal(new, old[[*range(32), *range(32, 46), *range(49, 63)]])
    assert torch.equal(model.transition_offset[0].weight, source.transition_offset[0].weight[:210])
    assert report.model_counts == {"loaded": 64}


def test_more_key_points_leave_the_new_rows_as_they_are() -> None:
    source, model = randomised(rows(28), 1), randomised(rows(34), 2)
    before = snapshot(model)["head.bias"]
    report = transfer(source, model, shapes={"head": "blocks"})
    old, new = source["head"].bias, model["head"].bias
    assert torch.equal(new[:14], old[:14])
    assert torch.equal(new[17:31], old[14:])
    assert torch.equal(new[[14, 15, 16, 31, 32, 33]], before[[14, 15, 16, 31, 32, 33]])
    assert next(e for e in report.targets if e.name == "head.bias").taken == 28


class Fed(nn.Module):
    """A layer and a norm that read features beside the maps of one or two layers."""

    def __init__(self, joints: int, *, features: int = 8, tags: bool = True, in_front: bool = True) -> None:
        super().__init__()
        self.stem, self.maps = nn.Conv2d(3, features, 1), nn.Conv2d(features, joints, 1)
        self.tags = nn.Conv2d(features, joints, 1) if tags else None
        width = features + (1 + tags) * joints
        self.norm, self.read = nn.BatchNorm2d(width), nn.Conv2d(width, 4, 1)


def test_an_input_that_holds_features_beside_maps_is_left_with_the_readings():
    source, model = randomised(Fed(17), 1), randomised(Fed(14), 2)
    before = snapshot(model)
    report = transfer(source, model, shapes="slice")
    after = snapshot(model)
    assert all(torch.equal(before[f"{n}.weight"], after[f"{n}.weight"]) for n in ("read", "norm"))
    assert torch.equal(before["norm.running_mean"], after["norm.running_mean"])
    assert next(e.how for e in report.sources if e.name == "read.weight") == (
        '42 -> 36 on the input axis; rows 0-21, 25-38 by blocks of 17 (shapes "blocks"), '
        'rows 0-35 by 2 for each (shapes "groups")'
    )


@pytest.mark.parametrize(("features", "tags"), [(8, True), (5, True), (8, False), (1, False), (32, False)])
def test_an_input_of_features_and_maps_is_taken_by_blocks_behind_the_features(features: int, tags: bool):
    source, model = (randomised(Fed(n, features=features, tags=tags), n) for n in (17, 14))
    assert transfer(source, model, shapes="blocks").ok
    taken = [*range(features + 14), *range(features + 17, features + 31)][: model.read.in_channels]
    assert torch.equal(model.read.weight, source.read.weight[:, taken])
    assert torch.equal(model.norm.running_var, source.norm.running_var[taken])


@pytest.mark.parametrize("features", [1, 8, 32])
def test_features_beside_one_kind_of_maps_may_stand_on_either_side(features: int):
    source, model = (randomised(Fed(n, features=features, tags=False), n) for n in (17, 14))
    report = transfer(source, model, shapes="slice")
    how = next(e.how for e in report.sources if e.name == "read.weight")
    assert how.endswith(
        f'rows 0-{features + 13} where {features} stand in front (shapes "blocks"), rows 0-13, '
        f"{f'17-{features + 16}' if features > 1 else '17'} where they stand behind (keep)"
    )
    behind = [*range(14), *range(17, 17 + features)]
    transfer(source, model, keep={"read.weight": behind, "norm": behind})
    assert torch.equal(model.read.weight, source.read.weight[:, behind])


def test_maps_of_any_count_that_are_read_beside_features_are_not_taken_from_the_first_on():
    source, model = randomised(Fed(9, features=5), 1), randomised(Fed(7, features=5), 2)
    report = transfer(source, model, shapes="slice")
    assert next(e.how for e in report.sources if e.name == "read.weight").endswith(
        'rows 0-11, 14-20 by blocks of 9 (shapes "blocks"), rows 0-18 by 2 for each (shapes "groups")'
    )
    transfer(source, model, shapes="blocks")
    assert torch.equal(model.read.weight, source.read.weight[:, [*range(12), *range(14, 21)]])


def test_outputs_of_two_kinds_that_are_read_side_by_side_are_left():
    def both(a: int, b: int) -> nn.Module:
        layers = {"stem": nn.Linear(2, 3), "a": nn.Linear(3, a), "b": nn.Linear(3, b), "read": nn.Linear(a + b + 3, 2)}
        return nn.ModuleDict(layers)

    for policy in ("slice", "blocks"):
        report = transfer(both(9, 5), both(7, 4), shapes={"read": policy, "*": "slice"})
        how = next(e.how for e in report.sources if e.name == "read.weight")
        assert how.endswith("several outputs that change are read side by side: keep says every row")


def test_an_input_that_is_the_whole_of_one_output_is_taken_as_that_is():
    def chain(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width), nn.Linear(width, 2))

    source, model = randomised(chain(8), 1), randomised(chain(6), 2)
    assert transfer(source, model, shapes="slice").ok
    assert torch.equal(model[2].weight, source[2].weight[:, :6])


def test_blocks_of_which_nobody_knows_the_count_are_not_the_first_rows():
    report = transfer(rows(12), rows(9), shapes={"head": "blocks"})
    assert (
        report.sources[0].how == "12 -> 9 on the output axis; how many blocks it has is not known: keep says every row"
    )


class Packed(nn.Module):
    def __init__(self, layer: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, layer)
        self.rest = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("qkv", lambda n: nn.Linear(4, 3 * n)),
        ("to_kv", lambda n: nn.Conv2d(4, 2 * n, 1)),
        ("gate_up_proj", lambda n: nn.Linear(4, 2 * n, bias=False)),
        ("attn", lambda n: nn.MultiheadAttention(n, 1)),
        ("lstm", lambda n: nn.LSTM(4, n)),
        ("cell", lambda n: nn.GRUCell(4, n)),
    ],
)
@pytest.mark.parametrize("policy", ["slice", "blocks"])
def test_the_first_rows_of_joined_outputs_are_not_those_of_each(name, layer, policy):
    source, model = Packed(layer(6), name), Packed(layer(5), name)
    report = transfer(source, model, shapes=policy)
    joined = [e for e in report.sources if e.name.startswith(name) and "out_proj" not in e.name]
    assert {e.bucket for e in joined} == {"mismatched"}
    assert joined[0].how.endswith('stand one after the other: keep says which rows of each (shapes "blocks")')


def test_rows_of_joined_outputs_are_taken_of_each_where_they_are_told():
    source, model = randomised(Packed(nn.Linear(4, 18), "qkv"), 1), randomised(Packed(nn.Linear(4, 15), "qkv"), 2)
    transfer(source, model, keep={"qkv": [0, 1, 2, 4, 5]}, shapes="blocks")
    taken = [6 * block + row for block in range(3) for row in (0, 1, 2, 4, 5)]
    assert torch.equal(model.qkv.weight, source.qkv.weight[taken])


def test_a_recurrent_layer_of_one_gate_has_one_output():
    source, model = randomised(Packed(nn.RNN(4, 6), "rnn"), 1), randomised(Packed(nn.RNN(4, 5), "rnn"), 2)
    transfer(source, model, shapes="slice")
    assert torch.equal(model.rnn.weight_hh_l0, source.rnn.weight_hh_l0[:5, :5])


# Keeping


def test_an_order_of_joints_is_taken_by_its_name() -> None:
    source, model = randomised(rows(17), 1), randomised(rows(14), 2)
    before = snapshot(model)
    transfer(source, model, keep={"head": "coco->crowdpose"})
    assert torch.equal(model["head"].weight[:12], source["head"].weight[5:])
    assert torch.equal(model["head"].weight[12:], before["head.weight"][12:])


def test_kept_indices_are_the_old_ones_in_the_new_order() -> None:
    source, model = randomised(rows(18), 1), randomised(rows(4), 2)
    report = transfer(source, model, keep={"*": [3, 1, 2, 17]})
    assert torch.equal(model["head"].weight, source["head"].weight[[3, 1, 2, 17]])
    assert report.ok


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [(17, 14, [*range(13)]), (18, 4, [3, 1, 2]), (17, 15, [*range(14)]), (1001, 11, "imagenet->imagenette")],
)
def test_an_index_too_few_is_no_sign_of_a_row_beside_the_others(old: int, new: int, kept: str | list[int]):
    report = transfer(rows(old), rows(new), keep={"*": kept})
    assert {e.bucket for e in report.sources if e.name.startswith("head")} == {"mismatched"}


@pytest.mark.parametrize(
    ("old", "new", "order"),
    [
        (20, 14, "coco->crowdpose"),
        (18, 14, "coco->crowdpose"),
        (1001, 10, "imagenet->imagenette"),
        (21841, 200, "imagenet->imagenet-r"),
        (800, 10, "imagenet->imagenette"),
        (92, 80, "coco91->coco80"),
    ],
)
def test_a_named_order_is_of_as_many_rows_as_it_names_and_no_others(old: int, new: int, order: str):
    report = transfer(rows(old), rows(new), keep={"*": order})
    assert {e.bucket for e in report.sources if e.name.startswith("head")} == {"mismatched"}
    of = orders()[order].old
    assert report.sources[0].how.endswith(f"keep names {new} rows of {of}, which do not count this axis")


def test_a_named_order_counts_key_points_beside_one_more_row():
    source, model = randomised(rows(18), 1), randomised(rows(15), 2)
    transfer(source, model, keep={"*": "coco->crowdpose"})
    assert torch.equal(model["head"].bias[[*range(12), 14]], source["head"].bias[5:])


def test_kept_rows_are_those_of_each_block() -> None:
    source, model = randomised(PoseNet(17), 1), randomised(PoseNet(14), 2)
    kept = [*range(3, 17)]
    transfer(source, model, keep={"*": kept}, shapes={"deconv_layers.*": "blocks", "*": "groups"})
    taken = [32 + 17 * block + row for block in range(2) for row in kept]
    assert torch.equal(model.deconv_layers[0].weight, source.deconv_layers[0].weight[[*range(32), *taken]])
    assert torch.equal(model.transition_offset[0].weight, source.transition_offset[0].weight[45:])
    assert torch.equal(model.head_heatmap[2].bias, source.head_heatmap[2].bias[3:])


def test_what_is_kept_does_not_count_an_axis_of_something_else() -> None:
    report = transfer(rows(17), rows(15), keep={"*": [0, 1, 2, 4]})
    assert report.sources[0].how == (
        "17 -> 15 on the output axis (key points + 1); keep names 4 rows, which do not count this axis"
    )


def test_a_malformed_keep_is_refused_with_the_nearest_order() -> None:
    with pytest.raises(TransferError) as caught:
        transfer(rows(17), rows(14), keep={"head": "coco->crowdpos", "rest": [0, 0]})
    text = str(caught.value)
    assert 'try       keep={"head": "coco->crowdpose"}' in text
    assert "found     0 twice" in text


def test_every_known_order_names_each_old_row_once() -> None:
    assert len(orders()) == 11
    for name, found in orders().items():
        known = [row for row in found.rows if row is not None]
        assert len(set(known)) == len(known), name
        assert max(known) < found.old
    assert [len(orders()[f"{old}->mpii"].rows) for old in ("coco", "crowdpose")] == [16, 16]


# Policies

KERNELS = [
    (4,),
    (6,),
    (4, 8),
    (4, 3),
    (6, 8),
    (4, 1),
    (4, 8, 3),
    (4, 8, 3, 3),
    (4, 1, 3, 3),
    (4, 8, 5, 5),
    (4, 3, 5, 3),
]
KERNELS += [(4, 8, 3, 3, 3), (4, 8, 5, 3, 3), (4, 8, 5, 3, 4), (4, 3, 3, 3, 3)]
TABLES = [(1, 16, 8), (1, 25, 8), (1, 25, 9), (16, 8), (25, 8), (25, 6), (1, 8, 4, 4), (1, 8, 6, 4), (1, 9, 6, 4)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_gives_values_of_the_size_that_it_says_or_why_it_does_not_apply(policy):
    for old, new in [*itertools.permutations(KERNELS, 2), *itertools.permutations(TABLES, 2)]:
        kernel = ("output", "input", *("depth", "height", "width")[5 - len(new) :])[: len(new)]
        axes = kernel if new in KERNELS else ("batch", "first", "second", "third")[-len(new) :]
        found = plan(Wish(policy), Spec("pos_embed", old), Spec("pos_embed", new), axes, patches=True)
        if isinstance(found, Conversion):
            assert tuple(convert(torch.ones(old), found, new).shape) == found.region, (old, new)
        else:
            assert "->" in found or "permute" in found


@pytest.mark.parametrize(
    ("policy", "old", "new"),
    [
        ("linear", (4, 8, 3, 3, 3), (4, 8, 5, 3, 3)),
        ("linear", (16, 8), (25, 8)),
        ("inflate", (4, 8, 3, 3), (4, 8, 5, 3, 3)),
        ("sum", (4, 8, 3, 3), (4, 1, 3, 3)),
    ],
)
def test_a_policy_applies_along_time_and_channels(policy, old, new):
    axes = ("entry", "channel") if len(new) == 2 else ("output", "input", *("depth", "height", "width")[5 - len(new) :])
    assert isinstance(plan(Wish(policy), Spec("w", old), Spec("w", new), axes), Conversion)

"""Plans are data; their costs are those of the layers, and inputs are brought to legal sizes."""

import json

import pytest
import torch
from hypothesis import given, settings, strategies as st
from plan_kinds import KINDS, example
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import autoadapt as aa
from autoadapt.adapting.operations import DropPrefix, Ones, Rearrange, Thin
from autoadapt.contracts.signature import AxisSizes

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60, database=None)

IMAGE = "f32[B, 3, H, W]"
ANY = {"B": AxisSizes(example=2), "H": AxisSizes(example=64), "W": AxisSizes(example=96)}


def planned(new, old, *, inputs=IMAGE, new_inputs=None, axes=ANY, new_axes=None, **options):
    source = aa.Signature.parse(new, inputs=new_inputs or inputs, name="Backbone", axes=new_axes or axes)
    return aa.plan(source, aa.Signature.parse(old, inputs=inputs, name="Old", axes=axes), **options)


def level(stride, channels=8):
    return f"f32[B, {channels}, ceil(H/{stride}), ceil(W/{stride})]"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_comes_back_from_json_and_builds_the_same_module(kind):
    made, net = example(kind)
    again = aa.Plan.model_validate(json.loads(net.plan.model_dump_json()))
    assert again == net.plan
    assert str(again) == str(net.plan)
    assert aa.build(made.new, again).code == net.code


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_the_specs_of_a_route_follow_from_its_steps_and_end_in_the_contract(kind):
    plan = example(kind)[1].plan
    contract = dict(plan.target.outputs.items())
    for route in plan.routes:
        spec = route.specs[0]
        for step, noted in zip(route.steps, route.specs[1:], strict=True):
            spec = step.gives(spec)
            assert spec == noted
        assert (spec.dtype, spec.dims) == (contract[route.target].dtype, contract[route.target].dims)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_of_a_plan_are_those_of_the_layers(kind):
    _, net = example(kind)
    assert net.plan.parameters == sum(p.numel() for p in aa.param_groups(net)["adapters"])


def test_the_multiply_adds_of_projections_are_those_that_torch_counts():
    new, x = nn.Conv2d(3, 5, 1), torch.randn(2, 3, 32, 48)
    net = aa.adapt(new, like=[level(1, 7)], inputs=x)
    counts = []
    for module in (new, net):
        with FlopCounterMode(display=False) as counter:
            module(x[:1])
        counts.append(counter.get_total_flops() // 2)
    assert net.plan.multiply_adds == counts[1] - counts[0] == 7 * 5 * 32 * 48


def test_a_plan_prints_what_serves_what_how_and_at_what_cost():
    lines = str(planned([level(8, 5), level(16, 5)], {"p3": level(8), "p4": level(16, 5)})).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "Backbone -> contract of Old (dict of 2)",
        "input x f32[B, 3, H, W]",
        "",
        "target source chain params",
        "p3 f32[B, 8, ceil(H/8), ..] 0 5->8 48",
        "p4 f32[B, 5, ceil(H/16), ..] 1 as it is",
        "adapters 48 parameters, 3.84k multiply-adds at B=1, H=64, W=96",
    ]
    assert len({line.index(cell) for line, cell in zip(lines[3:6], ("source", "0  ", "1  "), strict=True)}) == 1


def test_what_is_finer_than_its_source_is_remarked_on():
    plan = planned([level(16, 5)], {"p2": level(4)})
    assert plan.routes[0].remark == "finer than its source (stride 16): detail is interpolated, not seen"
    assert plan.routes[0].remark in " ".join(str(plan).split())
    assert max(map(len, str(plan).splitlines())) <= 80


def test_what_is_averaged_away_is_remarked_on():
    assert planned([level(16, 5)], "f32[B, 8]").routes[0].remark == "averaged over H, W"


LEGAL = {
    "any size": ({}, []),
    "one size": (
        {"H": AxisSizes(step=0, example=224), "W": AxisSizes(step=0, example=224)},
        ["resize to 224"],
    ),
    "multiples": (
        {"H": AxisSizes(step=32, example=64), "W": AxisSizes(step=16, example=64)},
        ["resize to 32*ceil(H/32) x 16*ceil(W/16)"],
    ),
}


def test_a_legal_size_at_which_nothing_is_left_is_passed_over():
    sizes = AxisSizes(step=32, offset=5, example=69)
    lost = "f32[B, 5, floor((H - 5)/32), floor((W - 5)/32)]"
    steps = planned([lost], [level(32)], new_axes=ANY | {"H": sizes, "W": sizes}).inputs[0].steps
    assert [steps[0].dims[0].evaluate({"H": size}) for size in (1, 5, 6, 37, 38, 70)] == [37, 37, 37, 37, 69, 101]


@pytest.mark.parametrize("name", LEGAL)
def test_inputs_are_brought_to_sizes_that_the_new_module_takes(name):
    changes, steps = LEGAL[name]
    plan = planned([level(32, 5)], [level(32)], new_axes=ANY | changes)
    assert [str(step) for step in plan.inputs[0].steps] == steps


@SETTINGS
@given(st.integers(1, 64), st.integers(0, 63), st.integers(20, 400))
def test_resized_inputs_are_legal_and_never_smaller_than_given(step, offset, size):
    legal = AxisSizes(step=step, offset=offset % step, example=step * 4 + offset % step)
    plan = planned([level(4, 5)], [level(4)], new_axes=ANY | {"H": legal})
    reached = plan.inputs[0].steps[0].gives(plan.target.inputs["x"]).dims[2] if plan.inputs[0].steps else None
    made = size if reached is None else reached.evaluate({"B": 1, "H": size, "W": 9})
    assert made % step == offset % step
    assert size <= made < size + step or made < step + offset


def test_nothing_is_resized_where_the_old_module_takes_no_other_sizes():
    axes = ANY | {"H": AxisSizes(step=32, example=64), "W": AxisSizes(step=32, example=64)}
    finer = ANY | {"H": AxisSizes(step=16, example=64), "W": AxisSizes(step=8, example=64)}
    assert planned([level(8, 5)], [level(8)], axes=axes, new_axes=finer).inputs[0].steps == ()


def test_inputs_are_paired_by_name_and_then_by_kind():
    new = {"mask": "bool[B, H, W]", "pixels": IMAGE}
    old = {"image": IMAGE, "mask": "bool[B, H, W]"}
    plan = planned([level(4)], [level(4)], inputs=old, new_inputs=new)
    assert {route.source: route.target for route in plan.inputs} == {"mask": "mask", "pixels": "image"}


def test_an_input_that_the_old_module_does_not_have_is_refused_by_its_name():
    with pytest.raises(aa.MatchError, match="Backbone cannot be called with the old module's inputs") as caught:
        planned([level(4)], [level(4)], new_inputs={"x": IMAGE, "depth": "i64[B, 7]"})
    said = str(caught.value)
    assert "inputs.depth" in said
    assert "expected  i64[B, 7]" in said
    assert "wrap the new module so that it takes the old one's arguments" in said


def test_other_channels_of_the_input_are_refused_with_what_to_build():
    with pytest.raises(aa.MatchError) as caught:
        planned([level(4)], [level(4)], inputs="f32[B, 64, H, W]", new_inputs=IMAGE)
    assert "inputs.x, axis 1" in str(caught.value)
    assert "expected  64" in str(caught.value)
    assert "found     3 only" in str(caught.value)
    assert "in_chans=64" in str(caught.value)


def test_outputs_may_be_left_out_with_the_containers_that_become_empty():
    old = {"a": [level(4)], "b": (level(8), level(16)), "n": 3}
    plan = planned([level(4), level(8), level(16)], old, outputs=["b"])
    assert plan.target.outputs.paths == ("b.0", "b.1")
    assert plan.target.outputs.tree.keys == ("b", "n")


@pytest.mark.parametrize(
    "step",
    [
        DropPrefix(axis=7, count=1),
        Ones(axis=9),
        Thin(axis=6, source=4, count=2, how="first", points="output"),
        Rearrange(pattern="b n c -> b c n"),
    ],
)
def test_a_plan_that_was_edited_to_name_an_axis_that_there_is_not_is_refused_and_shown(step):
    new = nn.Conv2d(3, 5, 4, 4)
    plan = aa.adapt(new, like=nn.Conv2d(3, 8, 4, 4), inputs=torch.zeros(1, 3, 32, 32)).plan
    edited = plan.model_copy(update={"inputs": (plan.inputs[0].model_copy(update={"steps": (step,)}),)})
    assert str(step).partition(" ")[0] in edited._repr_html_()
    with pytest.raises(aa.PlanError, match="does not fit its input"):
        aa.build(new, edited)


@pytest.mark.parametrize(("outputs", "said"), [(["p5"], "one of p3"), ([], "outputs=['p3']")])
def test_outputs_that_are_wrong_are_refused(outputs, said):
    with pytest.raises(aa.PlanError) as caught:
        planned([level(8)], {"p3": level(8)}, outputs=outputs)
    assert said in str(caught.value)


def test_a_contract_without_inputs_takes_those_of_the_new_module():
    source = aa.Signature.parse([level(8, 5)], inputs=IMAGE)
    plan = aa.plan(source, aa.Signature.parse({"p3": level(8)}))
    assert plan.target.inputs == source.inputs
    assert [str(step) for step in plan.routes[0].steps] == ["5->8"]


@SETTINGS
@given(st.lists(st.sampled_from((4, 8, 16, 32)), min_size=1, max_size=4), st.booleans())
def test_a_projection_everywhere_costs_one_for_each_output(strides, always):
    levels = [level(stride) for stride in sorted(set(strides))]
    plan = planned(levels, levels, project="always" if always else "needed")
    assert [len(route.steps) for route in plan.routes] == [int(always)] * len(levels)
    assert plan.parameters == (72 * len(levels) if always else 0)

"""The printed code is what runs: the same values, in names and lines that a person would write."""

import operator

import pytest
import timm
import torch
import torch.nn.functional as F
from plan_kinds import KINDS, adapted, example, texts
from small_models import Pair, Pyramid, Record, Wrapped, image
from torch import fx, nn
from transformers.modeling_outputs import BackboneOutput

import autoadapt as aa
from autoadapt.adapting.building.expressions import WIDTH
from autoadapt.adapting.building.printing import print_graph
from autoadapt.contracts.trees import flatten


def printed_forward(net):
    """The printed function, compiled."""
    names = {"torch": torch, "F": F, **print_graph(net.graph).objects}
    exec(net.code, names)
    return names["forward"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_the_printed_code_gives_the_same_bits(kind):
    made, net = example(kind)
    given = made.inputs if isinstance(made.inputs, tuple) else (made.inputs,)
    expected, found = net(*given), printed_forward(net)(net, *given)
    assert flatten(found)[0] == flatten(expected)[0]
    assert all(map(torch.equal, flatten(found)[1], flatten(expected)[1]))
    assert max(map(len, net.code.splitlines())) <= WIDTH


@pytest.mark.parametrize("container", [Pair, Record, BackboneOutput], ids=lambda cls: cls.__name__)
def test_classes_of_outputs_are_called_by_their_names(container):
    made = (
        (lambda fine, coarse: BackboneOutput(feature_maps=(fine, coarse))) if container is BackboneOutput else container
    )
    net = aa.adapt(Pyramid(6, 12), like=Wrapped(made), inputs=image()).eval()
    assert f"return {container.__name__}(" in net.code
    found = printed_forward(net)(net, image())
    assert type(found) is container
    assert all(map(torch.equal, flatten(found)[1], flatten(net(image()))[1]))


@pytest.mark.slow
def test_taps_are_named_where_the_backbone_is_called():
    old, new = timm.create_model("resnet18", features_only=True), timm.create_model("vit_tiny_patch16_224", depth=4)
    net = aa.adapt(new, like=old, resolution="fixed")
    lines = net.code.splitlines()
    assert lines[:5] == [
        "def forward(self, x):",
        "    height, width = x.shape[2], x.shape[3]",
        "    x = renormalize(x, [0.458, 0.448, 0.45], [-0.03, -0.088, -0.188], False)",
        f"    # {', '.join(net.plan.taps)}",
        "    features = self.backbone(resize(x, [224, 224]))",
    ]
    assert lines[5:8] == [
        "    level_0 = features[0][:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)",
        '    level_0 = self.adapters["0"](level_0)',
        "    level_0 = resize(level_0, [(height + 1) // 2, (width + 1) // 2])",
    ]
    assert lines[-1] == "    return [level_0, level_1, level_2, level_3, level_4]"


def test_an_output_whose_name_is_taken_gets_an_underscore():
    names = ["x", "features", "self", "map", "resize", "class", "height", "torch", "a b"]
    net = aa.adapt(Pyramid(4), like=texts(dict.fromkeys(names, "f32[B, 5, ceil(H/3), ceil(W/3)]")), inputs=image())
    expected, found = net.eval()(image()), printed_forward(net)(net, image())
    assert list(found) == names
    assert all(torch.equal(found[name], expected[name]) for name in names)


def chain(*names):
    """A graph of one function after another, whose values are called by these names."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    nodes = [x]
    for name in names:
        nodes.append(graph.call_function(torch.neg, (nodes[-1],)))
        nodes[-1].meta["name"] = name
    return graph, nodes


def run(graph, x):
    names = {"torch": torch}
    exec(print_graph(graph).function(), names)
    return names["forward"](None, x)


def test_a_name_is_used_again_only_when_its_value_is_no_longer_needed():
    graph, (x, first, second, third) = chain("a", "a", "a")
    both = graph.call_function(torch.mul, (third, first))
    graph.output([both, x, second])
    value = torch.tensor([2.0])
    assert [float(one) for one in run(graph, value)] == [4.0, 2.0, 2.0]


def test_an_argument_may_lend_its_name_to_what_is_made_of_it_but_not_while_it_is_needed():
    graph, (x, first) = chain("x")
    graph.output([graph.call_function(torch.abs, (first,)), graph.call_function(torch.abs, (first,))])
    assert "    x = torch.neg(x)" in print_graph(graph).function()
    graph, (x, first) = chain("x")
    graph.output([first, x])
    assert "    x_2 = torch.neg(x)" in print_graph(graph).function()


def test_arithmetic_has_the_parentheses_that_it_needs_and_no_others():
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")

    def put(sign, left, right):
        return graph.call_function(sign, (left, right))

    made = [
        put(operator.floordiv, put(operator.add, x, 31), 32),
        put(operator.mul, 8, put(operator.floordiv, x, 8)),
        put(operator.sub, x, put(operator.sub, x, y)),
        put(operator.sub, put(operator.sub, x, y), 1),
        put(operator.add, put(operator.mul, x, y), 1),
        put(operator.mul, put(operator.mul, x, y), 2),
    ]
    graph.output(made)
    texts = "(x + 31) // 32, 8 * (x // 8), x - (x - y), x - y - 1, x * y + 1, x * y * 2"
    assert print_graph(graph).function().splitlines()[1:] == [f"    return [{texts}]"]


def test_what_nobody_named_is_printed_too():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x, power=float("inf"), text="it's"):
            x.add_(1)
            return (torch.relu(x) * self.scale)[..., None, ::2], x.dtype, {"it's": 'a "b"'}

    graph = fx.symbolic_trace(Head()).graph
    assert print_graph(graph).function().splitlines() == [
        'def forward(self, x, power=float("inf"), text="it\'s"):',
        "    x.add_(1)",
        "    relu = torch.relu(x)",
        '    return (relu * self.scale)[..., None, ::2], x.dtype, {"it\'s": \'a "b"\'}',
    ]


def test_the_whole_prints_its_modules_and_this_code():
    net = adapted(KINDS["map to a vector"]()).eval()
    assert str(net).endswith(net.code)
    assert "(adapters): ModuleDict(" in str(net)


def test_an_argument_of_a_name_that_python_does_not_allow_is_refused():
    plan = example("map to a vector")[1].plan
    tree = plan.target.inputs.tree.model_copy(update={"keys": ("x=print('run')",)})
    target = plan.target.model_copy(update={"inputs": plan.target.inputs.model_copy(update={"tree": tree})})
    with pytest.raises(aa.BuildError, match="an argument has a name that Python does not allow"):
        aa.build(Pyramid(4, 8), plan.model_copy(update={"target": target}))


def test_nothing_is_moved_over_a_statement_that_changes_what_it_reads():
    graph = fx.Graph()
    x = graph.placeholder("x")
    before = graph.call_function(torch.neg, (x,))
    graph.call_method("add_", (x, 1))
    graph.output([graph.call_function(torch.abs, (before,)), graph.call_function(torch.abs, (x,))])
    assert [float(one) for one in run(graph, torch.tensor([2.0]))] == [2.0, 3.0]

"""Inputs that are objects: registered classes are taken apart by the names of their parts, others refused by name."""

from typing import NamedTuple

import pytest
import torch
from guests import guest
from torch import nn
from torch.utils import _pytree as pytree

import autoadapt as aa
from autoadapt.contracts.trees import Container, build_container, flatten
from autoadapt.errors import SignatureError


class Graph:
    def __init__(self, x, edge_index):
        self.x, self.edge_index = x, edge_index


class Cloud(Graph):
    """Not registered."""


def register(cls):
    def parts(one):
        return [(pytree.GetAttrKey(name), getattr(one, name)) for name in ("x", "edge_index")], None

    def children(one):
        return [one.x, one.edge_index], None

    pytree.register_pytree_node(cls, children, lambda made, _: cls(*made), flatten_with_keys_fn=parts)


@pytest.fixture(autouse=True)
def registered():
    if Graph not in pytree.SUPPORTED_NODES:
        register(Graph)


class Encoder(nn.Module):
    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, channels)

    def forward(self, graph):
        messages = torch.zeros_like(graph.x).index_add(0, graph.edge_index[1], graph.x[graph.edge_index[0]])
        return self.layer(graph.x + messages)


def example(cls, nodes=10, edges=30):
    return cls(torch.randn(nodes, 6), torch.randint(0, nodes, (2, edges)))


def test_a_registered_object_is_taken_apart_and_made_anew():
    captured = aa.capture(Encoder(8), (example(Graph),))
    assert captured.inputs.paths == ("graph.x", "graph.edge_index")
    assert str(captured.outputs.leaves[0]) == "f32[N, 8]"
    net = aa.adapt(Encoder(4), like=Encoder(8), inputs=(example(Graph),))
    graph = example(Graph, 17, 44)
    torch.testing.assert_close(net(graph), net.adapters["output"](Encoder(4)(graph)))
    assert net.verify().passed


def test_an_object_that_is_not_registered_is_refused_by_name_and_remedy():
    with pytest.raises(aa.CaptureError) as caught:
        aa.capture(Encoder(8), (example(Cloud),))
    assert "nothing tells the tensors of a Cloud" in str(caught.value)
    assert "inputs.graph" in str(caught.value)
    assert "names = ['edge_index', 'x']" in str(caught.value)
    assert "pytree.register_pytree_node(" in str(caught.value)


class Weighed(nn.Module):
    """Nodes with sums over edges, weighed where a graph has weights."""

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Linear(6, channels)

    def forward(self, graph):
        weights = getattr(graph, "weights", None)
        sent = graph.x[graph.edge_index[0]]
        sent = sent if weights is None else sent * weights[:, None]
        return self.layer(graph.x.index_add(0, graph.edge_index[1], sent))


def test_a_registration_without_a_tensor_that_the_module_reads_is_refused_by_its_name():
    graph = example(Graph)
    graph.labels = torch.zeros(10)
    assert aa.capture(Weighed(8), graph).inputs.paths == ("graph.x", "graph.edge_index")  # nobody reads these
    graph.weights = torch.rand(30)
    with pytest.raises(aa.CaptureError) as caught:
        aa.capture(Weighed(8), graph)
    (fault,) = caught.value.mismatches
    assert (fault.where, fault.found) == ("inputs.graph", "no labels, weights")
    graph.weights = ones = torch.ones(30)  # which make no difference to this example
    with pytest.raises(aa.CaptureError, match="leaves out tensors that the module reads"):
        aa.capture(Weighed(8), graph)
    assert graph.weights is ones
    assert bool((ones == 1).all())


def test_the_remedy_can_be_pasted():
    class Pasted(Graph):
        """Registered by the remedy, and made in no module."""

    graph = example(Pasted)
    with pytest.raises(aa.CaptureError) as caught:
        aa.capture(Encoder(8), graph)
    exec(caught.value.mismatches[0].remedy, {"graph": graph})
    assert aa.capture(Encoder(8), graph).inputs.paths == ("graph.edge_index", "graph.x")


@pytest.mark.guest
@pytest.mark.parametrize("batched", [False, True])
def test_the_remedy_can_be_pasted_for_graphs_of_torch_geometric(batched, monkeypatch):
    data, layers = guest("torch_geometric.data"), guest("torch_geometric.nn")

    class Net(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.layer = layers.GCNConv(6, channels)

        def forward(self, graph):
            made = self.layer(graph.x, graph.edge_index)
            return layers.global_mean_pool(made, graph.batch) if batched else made

    graphs = [data.Data(x=torch.randn(5, 6), edge_index=torch.randint(0, 5, (2, 9))) for _ in range(3)]
    given = data.Batch.from_data_list(graphs) if batched else graphs[0]
    monkeypatch.setitem(pytree.SUPPORTED_NODES, type(given), None)  # put back, or taken away, at the end
    del pytree.SUPPORTED_NODES[type(given)]
    with pytest.raises(aa.CaptureError) as caught:
        aa.capture(Net(4), given)
    pytree.SUPPORTED_NODES.pop(type(given), None)
    exec(caught.value.mismatches[0].remedy, {"graph": given})
    assert aa.adapt(Net(4), like=Net(8), inputs=given).verify().passed


def test_data_names_no_class_that_is_not_registered():
    tree, tensors = flatten(example(Graph))
    assert isinstance(tree, Container)
    assert isinstance(build_container(tree, tensors), Graph)
    with pytest.raises(SignatureError, match="is no registered"):
        build_container(tree.model_copy(update={"type": f"{__name__}:Cloud"}), tensors)


def test_nested_tensors_are_refused_by_name():
    rows = torch.nested.nested_tensor([torch.randn(4, 6), torch.randn(3, 6)], layout=torch.jagged)
    with pytest.raises(aa.CaptureError) as caught:
        aa.capture(nn.Linear(6, 3), rows)
    assert "a nested tensor is no input" in str(caught.value)
    assert "torch.nested.to_padded_tensor(inputs, 0.0)" in str(caught.value)


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda packed: packed, "inputs"),
        (lambda packed: (packed, None), "inputs[0]"),
        (lambda packed: {"input": packed}, "inputs['input']"),
    ],
    ids=["alone", "in a tuple", "by name"],
)
def test_packed_sequences_are_refused_with_what_pads_them(wrap, place):
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(7, 2, 5), torch.tensor([7, 4]))
    with pytest.raises(aa.CaptureError, match="a packed sequence is no input") as caught:
        aa.capture(nn.GRU(5, 8), wrap(packed))
    assert f"padded, lengths = torch.nn.utils.rnn.pad_packed_sequence({place})" in str(caught.value)


@pytest.mark.guest
def test_graphs_of_torch_geometric_are_taken_apart_once_they_are_registered():
    data, layers = guest("torch_geometric.data"), guest("torch_geometric.nn")

    class Convolved(nn.Module):
        def __init__(self, channels, kind):
            super().__init__()
            self.layer = kind(6, channels)

        def forward(self, graph):
            return self.layer(graph.x, graph.edge_index)

    if data.Data not in pytree.SUPPORTED_NODES:
        register(data.Data)
    old, new = Convolved(8, layers.GCNConv).eval(), Convolved(4, layers.SAGEConv).eval()
    net = aa.adapt(new, like=old, inputs=(example(data.Data),))
    graph = example(data.Data, 17, 44)
    torch.testing.assert_close(net(graph), net.adapters["output"](new(graph)))


def register_graphs(cls):
    def names(graph):
        return [name for name in ("edge_attr", "edge_index", "x", "batch") if name in graph]

    def parts(graph):
        return [(pytree.GetAttrKey(name), graph[name]) for name in names(graph)], names(graph)

    if cls not in pytree.SUPPORTED_NODES:
        pytree.register_pytree_node(
            cls, lambda graph: ([graph[name] for name in names(graph)], names(graph)), None, flatten_with_keys_fn=parts
        )


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.parametrize("pooled", [False, True])
def test_batches_of_graphs_with_attributes_of_edges_are_given_as_they_are(pooled):
    data, layers = guest("torch_geometric.data"), guest("torch_geometric.nn")

    class Pooled(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.layer = layers.GATv2Conv(6, channels, edge_dim=3)

        def forward(self, graph):
            nodes = self.layer(graph.x, graph.edge_index, graph.edge_attr)
            return layers.global_mean_pool(nodes, graph.batch) if pooled else nodes

    def graphs(count):
        edges = [torch.randint(0, 5, (2, 9)) for _ in range(count)]
        return data.Batch.from_data_list(
            [data.Data(edge_attr=torch.randn(9, 3), edge_index=one, x=torch.randn(5, 6)) for one in edges]
        )

    register_graphs(type(graphs(1)))
    new = Pooled(10).eval()
    net = aa.adapt(new, like=Pooled(8).eval(), inputs=graphs(3))
    assert str(net.signature.inputs["graph.x"]) == "f32[N, 6]"
    other = graphs(4)
    torch.testing.assert_close(net(other), net.adapters["output"](new(other)))
    net.verify().raise_if_failed()


def test_an_object_that_can_be_called_is_no_function():
    class Called(Graph):
        def __call__(self):
            return self.x

    for inputs in (example(Called), (example(Called),)):
        with pytest.raises(aa.CaptureError, match=r"nothing tells the tensors of a .*Called"):
            aa.capture(Encoder(8), inputs)
    assert aa.capture(Encoder(8), example(Graph)).inputs.paths == ("graph.x", "graph.edge_index")


class Renaming(type):
    """Makes another class when it is called, as that of torch_geometric's batches does."""

    def __call__(cls, *args, **kwargs):
        made = type(f"Other{cls.__name__}", (), dict(cls.__dict__))
        return type.__call__(made, *args, **kwargs)


class Batched(metaclass=Renaming):
    def __init__(self, x, edge_index):
        self.x, self.edge_index = x, edge_index


def test_an_object_whose_class_makes_others_and_stands_in_no_module_is_made_anew():
    made = Batched
    made.__module__ = "nowhere"
    if made not in pytree.SUPPORTED_NODES:
        register(made)
    graph = type.__call__(made, torch.randn(10, 6), torch.randint(0, 10, (2, 30)))
    net = aa.adapt(Encoder(4), like=Encoder(8), inputs=graph)
    torch.testing.assert_close(net(graph), net.adapters["output"](Encoder(4)(graph)))


class Batch(NamedTuple):
    x: torch.Tensor
    edge_index: torch.Tensor
    weights: torch.Tensor | None = None


def test_a_named_tuple_is_taken_apart_and_made_anew():
    given = example(Batch)
    assert aa.capture(Encoder(8), (given,)).inputs.paths == ("graph.x", "graph.edge_index")
    net = aa.adapt(Encoder(4), like=Encoder(8), inputs=(given,))
    torch.testing.assert_close(net(given), net.adapters["output"](Encoder(4)(given)))


class Held(NamedTuple):
    cloud: Cloud


def test_an_object_in_a_named_tuple_is_refused_by_its_path():
    with pytest.raises(aa.CaptureError, match="nothing tells the tensors of a Cloud") as caught:
        aa.capture(nn.Identity(), (Held(example(Cloud)),))
    assert "cloud" in str(caught.value)

"""Graphs: nodes and edges are axes of their own, and all that is as long as these varies with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa

NODES, EDGES = 12, 30
X = torch.randn(NODES, 6)
LIST = torch.randint(0, NODES, (2, EDGES), generator=torch.Generator().manual_seed(0))
ATTRIBUTES = torch.randn(EDGES, 4)
GRAPH = (X, LIST, ATTRIBUTES)


class Encoder(nn.Module):
    """Each node is its own map, and the sum of what its edges bring."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.sent, self.along = nn.Linear(6, width), nn.Linear(6, width), nn.Linear(4, width)

    def forward(self, x, edge_index, edge_attr):
        message = self.sent(x)[edge_index[0]] * self.along(edge_attr)
        return self.own(x).index_add(0, edge_index[1], message)


class Pooled(Encoder):
    """One vector of each graph, told by the number of the graph of each node."""

    def forward(self, x, edge_index, edge_attr, batch):
        return super().forward(x, edge_index, edge_attr) + batch[:, None]


def dims(signature):
    return [str(leaf) for leaf in (*signature.inputs.leaves, *signature.outputs.leaves)]


def test_edges_and_their_attributes_are_one_axis_and_nodes_another():
    assert dims(aa.capture(Encoder(8), GRAPH)) == ["f32[N, 6]", "i64[2, E]", "f32[E, 4]", "f32[N, 8]"]


def test_what_is_told_of_each_node_is_as_long_as_the_nodes():
    found = dims(aa.capture(Pooled(8), (*GRAPH, torch.zeros(NODES, dtype=torch.int64))))
    assert found == ["f32[N, 6]", "i64[2, E]", "f32[E, 4]", "i64[N]", "f32[N, 8]"]


def test_a_graph_network_serves_another_at_any_number_of_nodes_and_edges():
    new = Encoder(5)
    net = aa.adapt(new, like=Encoder(8), inputs=GRAPH)
    other = torch.randn(7, 6), LIST[:, :19] % 7, ATTRIBUTES[:19]
    torch.testing.assert_close(net(*other), net.adapters["output"](new(*other)))


@pytest.mark.slow
def test_a_graph_network_is_verified_without_false_alarm():
    aa.adapt(Encoder(5), like=Encoder(8), inputs=GRAPH).verify().raise_if_failed()


def test_two_sentences_of_token_ids_are_no_edges():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 4)

        def forward(self, ids, extra):
            return self.embed(ids) + extra[:, None]

    ids = torch.randint(0, 2, (2, 7)), torch.randn(2, 4)
    assert dims(aa.capture(Tokens(), ids))[0] == "i64[B, N]"


@pytest.mark.slow
@pytest.mark.guest
def test_encoders_of_torch_geometric_serve_each_other():
    layers = pytest.importorskip("torch_geometric.nn")

    class Real(nn.Module):
        def __init__(self, kind, width):
            super().__init__()
            self.first, self.second = kind(6, width, edge_dim=4), kind(width, width, edge_dim=4)

        def forward(self, x, edge_index, edge_attr):
            return self.second(self.first(x, edge_index, edge_attr).relu(), edge_index, edge_attr)

    new = Real(layers.TransformerConv, 10).eval()
    net = aa.adapt(new, like=Real(layers.GATConv, 16).eval(), inputs=GRAPH)
    other = torch.randn(7, 6), LIST[:, :19] % 7, ATTRIBUTES[:19]
    torch.testing.assert_close(net(*other), net.adapters["output"](new(*other)))
    net.verify().raise_if_failed()


@pytest.mark.parametrize("first", ["attributes", "nodes"])
def test_attributes_of_edges_that_come_first_are_no_nodes(first):
    class Any(nn.Module):
        def forward(self, one, edges, other):
            nodes, attributes = (other, one) if first == "attributes" else (one, other)
            return nodes.index_add(0, edges[1], nodes[edges[0]] * attributes.mean(1, keepdim=True))

    edges, nodes, attributes = torch.randint(0, 12, (2, 30)), torch.randn(12, 6), torch.randn(30, 3)
    given = (attributes, edges, nodes) if first == "attributes" else (nodes, edges, attributes)
    assert dims(aa.capture(Any(), given))[-1].startswith("f32[N, C")


class OfGraphs(Encoder):
    """The mean of the nodes of each graph of a batch."""

    def forward(self, x, edge_index, edge_attr, batch):
        nodes, count = super().forward(x, edge_index, edge_attr), int(batch.max()) + 1
        sums = nodes.new_zeros(count, nodes.shape[1]).index_add(0, batch, nodes)
        return sums / batch.bincount(minlength=count).clamp(min=1)[:, None]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("graphs", [2, 3, 5, 6])
def test_the_number_of_graphs_is_no_function_of_that_of_nodes(graphs):
    batch = torch.arange(NODES) * graphs // NODES
    assert dims(aa.capture(OfGraphs(8).eval(), (*GRAPH, batch)))[-1] == f"f32[{graphs}, 8]"
    new = OfGraphs(graphs).eval()  # as many channels as graphs
    net = aa.adapt(new, like=OfGraphs(8), inputs=(*GRAPH, batch))
    for other in (batch, torch.arange(NODES) // 4, torch.arange(NODES) // 2, torch.zeros(NODES, dtype=torch.int64)):
        torch.testing.assert_close(net(*GRAPH, other), net.adapters["output"](new(*GRAPH, other)))
    net.verify().raise_if_failed()


def test_nodes_are_no_graphs():
    class OfNodes(Encoder):
        def forward(self, x, edge_index, edge_attr, batch=None):
            return super().forward(x, edge_index, edge_attr)

    with pytest.raises(aa.MatchError, match="nothing in OfNodes can serve"):
        aa.adapt(OfNodes(5), like=OfGraphs(8), inputs=(*GRAPH, torch.arange(NODES) // 6))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("sizes", [(6, 4, 8), (3, 3, 3), (4,) * 5, (2,) * 4, (1,) * 4, (1, 1, 1), (1, 1)])
def test_few_nodes_of_several_graphs_are_enough(sizes):
    batch, nodes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), sum(sizes)
    graph = torch.randn(nodes, 6), LIST % nodes, ATTRIBUTES
    net = aa.adapt(OfGraphs(5).eval(), like=OfGraphs(8), inputs=(*graph, batch))
    assert dims(net.plan.target)[-1] == f"f32[{len(sizes)}, 8]"
    assert net.plan.target.axes["N"].smallest >= len(sizes)
    net.verify().raise_if_failed()
    batch, new = torch.arange(NODES) // 4, net.backbone
    torch.testing.assert_close(net(*GRAPH, batch), net.adapters["output"](new(*GRAPH, batch)))


def test_a_graph_of_one_node_is_verified_without_false_alarm():
    graph = torch.randn(1, 6), torch.zeros(2, 3, dtype=torch.int64), torch.randn(3, 4)
    aa.adapt(Encoder(5).eval(), like=Encoder(8).eval(), inputs=graph).verify().raise_if_failed()


@pytest.mark.parametrize("edges", [3, NODES])
def test_as_many_edges_as_graphs_or_nodes_leave_no_graph_without_a_node(edges):
    batch, graph = torch.arange(NODES) // 4, (X, LIST[:, :edges], ATTRIBUTES[:edges])
    net = aa.adapt(OfGraphs(5).eval(), like=OfGraphs(8).eval(), inputs=(*graph, batch))
    net.verify().raise_if_failed()


def test_a_mask_of_two_sentences_lists_no_edges():
    class Masked(nn.Module):
        def forward(self, mask, x):
            return mask[:, :, None] * x[:, None]

    x, mask = torch.randn(2, 5), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    assert dims(aa.capture(Masked(), (mask, x)))[0] == "i64[B, N]"


class Clouds(nn.Module):
    """Points of several clouds beside the mean of their own cloud, as torch_geometric lists them; or these means."""

    def __init__(self, width, *, pooled=False):
        super().__init__()
        self.layer, self.pooled = nn.Linear(5, width), pooled

    def forward(self, x, batch):
        y, clouds = self.layer(x), int(batch.max()) + 1
        counted = torch.zeros(clouds).index_add(0, batch, torch.ones(len(batch)))
        means = torch.zeros(clouds, y.shape[1]).index_add(0, batch, y) / counted[:, None]
        return means if self.pooled else y + means[batch]


@pytest.mark.parametrize("pooled", [False, True])
def test_points_of_several_clouds_are_nodes_without_edges(pooled):
    points, batch = torch.randn(9, 5), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    net = aa.adapt(Clouds(6, pooled=pooled), like=Clouds(4, pooled=pooled), inputs=(points, batch))
    assert str(net.signature.outputs.leaves[0]) == ("f32[3, 4]" if pooled else "f32[N, 4]")
    more = torch.randn(12, 5), torch.arange(12) * 3 // 12
    torch.testing.assert_close(net(*more), net.adapters["output"](net.backbone(*more)))
    net.verify().raise_if_failed()

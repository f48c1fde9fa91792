"""Numbers of one's own: the operations that torch keeps stay the ones that it keeps."""

import torch

from autoadapt.contracts.randomness import OwnNumbers


def test_no_operation_of_torch_is_replaced_by_another_object():
    # torch's dispatcher holds pointers to these objects without owning them, so a replaced one is a crash later on.
    packets = [torch.ops.aten.randn, torch.ops.aten.rand, torch.ops.aten.normal, torch.ops.aten.randint]
    before = {str(packet): [getattr(packet, name) for name in packet.overloads()] for packet in packets}
    with OwnNumbers(0):
        torch.randn(2), torch.rand(2), torch.normal(0.0, 1.0, (2,)), torch.randint(3, (2,))
    for packet in packets:
        kept = [getattr(packet, name) for name in packet.overloads()]
        assert all(old is new for old, new in zip(before[str(packet)], kept, strict=True)), packet

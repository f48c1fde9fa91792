"""Objects beside the outputs, such as caches of keys, are left out where `outputs=` names what must be served."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn

import autoadapt as aa


class Cache:
    """No container: nothing tells what it holds."""


class Decoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        return self.embed(ids), Cache()


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.head = Decoder(8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> dict[str, object]:
        tokens, cache = self.decoder(ids)
        return {"logits": self.head(tokens), "cache": cache}


IDS = torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(0))


def test_the_remedy_of_the_refusal_works_and_who_reads_the_object_is_told() -> None:
    model = Reader()
    with pytest.raises(aa.SwapError) as caught:
        aa.swap(model, "decoder", Decoder(6), inputs=IDS)
    remedy = caught.value.mismatches[0].remedy.partition("  #")[0]
    assert remedy == "outputs=['0']"
    model = aa.swap(model, "decoder", Decoder(6), inputs=IDS, outputs=["0"])
    returned = model(IDS)
    assert returned["logits"].shape == (2, 7, 3)
    with pytest.raises(TypeError, match="the output 1 was left out"):
        _ = returned["cache"].keys
    assert model.decoder.verify().passed


def test_what_walks_through_all_outputs_passes_those_that_were_left_out(tmp_path: Path) -> None:
    model = aa.swap(Reader(), "decoder", Decoder(6), inputs=IDS, outputs=["0"])
    aa.to_source(model.decoder, tmp_path / "plain.py")
    spec = importlib.util.spec_from_file_location("plain", tmp_path / "plain.py")
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    for net in (model.decoder, plain.Adapted(model.decoder.backbone)):
        _, unread = net(IDS)
        assert not hasattr(unread, "items")
        assert getattr(unread, "shape", None) is None
        for use in (lambda: unread.shape, lambda: unread[0], lambda: torch.relu(unread)):  # noqa: B023 - called at once
            for kind in (TypeError, AttributeError):
                with pytest.raises(kind, match=r"the output 1 was left out .*outputs="):
                    use()


def test_an_object_in_another_place_is_still_a_difference() -> None:
    class Moved(Reader):
        def forward(self, ids: torch.Tensor) -> dict[str, object]:
            found = super().forward(ids)
            return found | {"held": Cache() if isinstance(found["cache"], Cache) else torch.zeros(1)}

    with pytest.raises(aa.SwapError, match="does not return what it did"):
        aa.swap(Moved(), "decoder", Decoder(6), inputs=IDS, outputs=["0"])


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_decoders_with_a_cache_serve_each_other(masked: bool) -> None:
    sizes = {"vocab_size": 50, "n_layer": 2, "n_head": 2, "n_positions": 64, "num_labels": 5, "pad_token_id": 0}
    model = hf.GPT2ForSequenceClassification(hf.GPT2Config(n_embd=16, **sizes)).eval()
    inputs = {"input_ids": IDS} | ({"attention_mask": torch.ones_like(IDS)} if masked else {})
    new = hf.GPT2Model(hf.GPT2Config(n_embd=24, **sizes)).eval()
    model = aa.swap(model, "transformer", new, inputs=inputs, outputs=["last_hidden_state"])
    assert model(**inputs).logits.shape == (2, 5)
    other = IDS.clone()
    other[:, 2] += 1
    assert not torch.allclose(model(**inputs).logits, model(**inputs | {"input_ids": other % 50}).logits)

"""Objects beside the outputs, such as caches of keys, are left out where `outputs=` names what must be served."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from standalone_files import standalone
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
    for net in (model.decoder, standalone(model.decoder, model.decoder.backbone, tmp_path / "plain.py")):
        _, unread = net(IDS)
        assert not hasattr(unread, "items")
        assert getattr(unread, "shape", None) is None
        for use in (lambda: unread.shape, lambda: unread[0], lambda: torch.relu(unread)):  # noqa: B023 - called at once
            for kind in (TypeError, AttributeError):
                with pytest.raises(kind, match=r"the output 1 was left out .*outputs="):
                    use()


class Asked(Decoder):
    """What it returns beside its tokens, and in one case these, depends on flags."""

    def forward(
        self, ids: torch.Tensor, cached: bool | None = None, scaled: bool = True, both: bool = True
    ) -> tuple[torch.Tensor, Cache | None, Cache | None]:
        tokens = self.embed(ids) * (2 if scaled else 1) + (1 if both else 0)
        return tokens, Cache() if cached is not False else None, Cache() if both else None


class Asking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.head = Asked(8), nn.Linear(8, 3)
        self.decoder.config = SimpleNamespace(cached=True)

    def forward(self, ids: torch.Tensor, **flags: bool) -> tuple[torch.Tensor, object, object]:
        tokens, *held = self.decoder(ids, **{"cached": None, "scaled": True, "both": True} | flags)
        return self.head(tokens), *held


def test_who_asks_for_no_object_gets_none_and_what_asks_for_other_values_is_refused(tmp_path: Path) -> None:
    model = aa.swap(Asking(), "decoder", Asked(6), inputs=IDS, outputs=["0"])
    net = model.decoder
    aa.save(net, tmp_path / "saved")
    again = aa.restore(tmp_path / "saved", Asked(6))
    for one in (net, again, copy.deepcopy(net)):
        tokens, cache, other = one(IDS, None, True, True)
        assert "left out" in repr(cache)
        less, gone, still = one(IDS, False, True, True)
        assert gone is None
        assert still == other
        assert torch.equal(less, tokens)
        for flags in ((None, False, True), (None, True, False)):
            with pytest.raises(ValueError, match="would be ignored"):
                one(IDS, *flags)
    assert net.verify().passed
    assert model(IDS, cached=False)[1] is None


@pytest.mark.slow
def test_a_language_model_generates_without_a_cache() -> None:
    sizes = {"vocab_size": 50, "n_layer": 2, "n_head": 2, "n_positions": 64, "eos_token_id": None, "pad_token_id": 0}
    model = hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, **sizes)).eval()
    new = hf.GPT2Model(hf.GPT2Config(n_embd=24, **sizes)).eval()
    model = aa.swap(model, "transformer", new, inputs={"input_ids": IDS}, outputs=["last_hidden_state"])
    wanted = IDS
    for _ in range(3):
        wanted = torch.cat([wanted, model(wanted).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(IDS, max_new_tokens=3, do_sample=False, use_cache=False), wanted)
    with pytest.raises(ValueError, match="cache was None"):
        model.generate(IDS, max_new_tokens=3, do_sample=False)


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

"""Masks of real language and speech models: padding changes nothing, and a mask acts, in each other's place."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

import autoadapt as aa

IDS = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
SIZES = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
SPEECH = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
}
MODELS = {
    "bert": lambda: hf.BertModel(hf.BertConfig(hidden_size=16, **SIZES)),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(hidden_size=24, **SIZES)),
    "distilbert": lambda: hf.DistilBertModel(
        hf.DistilBertConfig(vocab_size=50, dim=12, n_layers=2, n_heads=2, hidden_dim=16)
    ),
    "modernbert": lambda: hf.ModernBertModel(hf.ModernBertConfig(hidden_size=20, pad_token_id=0, **ENDS, **SIZES)),
    "wav2vec2": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(hidden_size=16, **SPEECH)),
    "wavlm": lambda: hf.WavLMModel(hf.WavLMConfig(hidden_size=12, **SPEECH)),
    "hubert": lambda: hf.HubertModel(hf.HubertConfig(hidden_size=20, **SPEECH)),
}

PAIRS = [
    ("bert", "distilbert"),
    ("roberta", "modernbert"),
    ("distilbert", "bert"),
    ("modernbert", "roberta"),
    ("modernbert", "modernbert"),
]
"""Each in the place of another, and one in its own."""


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.mark.slow
@pytest.mark.parametrize(("new", "old"), PAIRS)
def test_what_a_language_model_says_of_a_sentence_does_not_change_with_its_padding(old, new):
    net = aa.adapt(made(new), like=made(old), inputs={"input_ids": IDS, "attention_mask": MASK})
    alone = net(input_ids=IDS[1:, :5], attention_mask=MASK[1:, :5])
    padded = net(input_ids=IDS, attention_mask=MASK)
    unmasked = net(input_ids=IDS, attention_mask=torch.ones_like(MASK))
    for name, expected in alone.items():
        part = padded[name][1:, :5] if expected.dim() == 3 else padded[name][1:]
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(padded[name], unmasked[name], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "modernbert", "wav2vec2", "wavlm", "hubert"])
def test_the_mask_of_a_real_model_is_found_beside_other_arguments(name):
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    if name == "bert":
        inputs["token_type_ids"] = 1 - MASK
    if name in ("wav2vec2", "wavlm", "hubert"):
        inputs = {"input_values": torch.randn(2, 400), "attention_mask": (torch.arange(400) < 300).long().expand(2, -1)}
    seen = aa.capture(made(name), inputs)
    assert [str(mask) for mask in seen.masks] == ["attention_mask hides along N where it is 0"]
    assert [leaf.role for leaf in seen.inputs.leaves][1] == "mask"
    assert [dim for leaf in seen.inputs.leaves for dim in map(str, leaf.dims)] == ["B", "N"] * len(inputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize(("new", "old"), [("hubert", "wav2vec2"), ("wavlm", "wav2vec2"), ("wav2vec2", "hubert")])
def test_the_last_hidden_state_of_a_speech_model_is_served_by_that_of_another(new, old):
    inputs = {"input_values": torch.randn(2, 400), "attention_mask": (torch.arange(400) < 300).long().expand(2, -1)}
    own = made(new)
    net = aa.adapt(own, like=made(old), inputs=inputs)
    expected = net.adapters["last_hidden_state"](own(**inputs).last_hidden_state)
    torch.testing.assert_close(net(**inputs).last_hidden_state, expected)


@pytest.mark.slow
def test_types_of_tokens_are_no_positions():
    new = made("modernbert")
    net = aa.adapt(new, like=made("bert"), inputs=(IDS, MASK, 1 - MASK))
    expected = net.adapters["last_hidden_state"](new(IDS, MASK).last_hidden_state)
    torch.testing.assert_close(net(IDS, MASK, 1 - MASK).last_hidden_state, expected)
    assert "takes no token_type_ids" in " ".join(str(net.plan).split())


class FirstFrame(torch.nn.Module):
    """A vector of a recording."""

    def __init__(self) -> None:
        super().__init__()
        self.model = made("wav2vec2")

    def forward(self, input_values, attention_mask=None):
        return self.model(input_values, attention_mask=attention_mask).last_hidden_state[:, 0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("new", ["wavlm", "hubert"])
def test_what_a_speech_model_says_of_a_recording_does_not_change_with_its_padding(new):
    waves, mask = torch.randn(2, 400), (torch.arange(400) < torch.tensor([[400], [310]])).long()
    net = aa.adapt(made(new), like=FirstFrame(), inputs={"input_values": waves, "attention_mask": mask})
    alone = net(input_values=waves[1:, :310], attention_mask=mask[1:, :310])
    torch.testing.assert_close(net(waves, mask)[1:], alone, rtol=1e-4, atol=1e-5)


def heads(name):
    torch.manual_seed(0)
    kinds = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "modernbert": "ModernBert"}
    return getattr(hf, f"{kinds[name]}ForSequenceClassification")(made(name).config).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("new", "old"), PAIRS)
def test_a_language_model_serves_the_classifier_of_another_with_a_mask_and_without(new, old):
    model, at = heads(old), {"modernbert": "model"}.get(old, old)
    model = aa.swap(model, at, made(new), inputs={"input_ids": IDS, "attention_mask": MASK}).eval()
    padded, alone = model(IDS, MASK).logits[1:], model(IDS[1:, :5], MASK[1:, :5]).logits
    torch.testing.assert_close(padded, alone, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(model(IDS).logits, model(IDS, torch.ones_like(MASK)).logits)

"""Taggers and classifiers of sentences keep working with another language model, for masks and in training."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

import autoadapt as aa

IDS = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
SHARP = {"initializer_range": 0.5}
"""Weights so large that attention is no mean of all tokens."""
SIZES = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, **SHARP}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "pad_token_id": 0}
CONFIGS = {
    "Bert": lambda width: hf.BertConfig(hidden_size=width, num_labels=5, **SIZES),
    "Roberta": lambda width: hf.RobertaConfig(hidden_size=width, num_labels=5, **SIZES),
    "DistilBert": lambda width: hf.DistilBertConfig(
        vocab_size=50, dim=width, n_layers=2, n_heads=2, hidden_dim=16, num_labels=5, **SHARP
    ),
    "ModernBert": lambda width: hf.ModernBertConfig(hidden_size=width, num_labels=5, **ENDS, **SIZES),
}
PARTS = {"Bert": "bert", "Roberta": "roberta", "DistilBert": "distilbert", "ModernBert": "model"}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["TokenClassification", "SequenceClassification"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Bert", "DistilBert"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("Roberta", "ModernBert"), ("DistilBert", "Roberta"), ("ModernBert", "Bert"))
        ),
    ],
)
def test_a_head_reads_the_same_of_a_sentence_padded_or_not_and_trains(old, new, task):
    torch.manual_seed(0)
    model = getattr(hf, f"{old}For{task}")(CONFIGS[old](16)).eval()
    other = getattr(hf, f"{new}Model")(CONFIGS[new](12)).eval()
    aa.swap(model, PARTS[old], other, inputs={"input_ids": IDS, "attention_mask": MASK})
    padded = model(input_ids=IDS, attention_mask=MASK).logits[1]
    alone = model(input_ids=IDS[1:, :5], attention_mask=MASK[1:, :5]).logits[0]
    unmasked = model(input_ids=IDS, attention_mask=torch.ones_like(MASK)).logits[1]
    swapped = model(input_ids=IDS.flip(0), attention_mask=MASK.flip(0)).logits[0]
    torch.testing.assert_close(padded[: len(alone)], alone, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(padded, swapped, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(padded, unmasked, atol=1e-4)
    labels = torch.zeros_like(IDS) if task == "TokenClassification" else torch.zeros(2, dtype=torch.long)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(input_ids=IDS, attention_mask=MASK, labels=labels).loss.backward()
    adapters = model.get_submodule(PARTS[old]).adapters
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in adapters.parameters())
    optimizer.step()
    model.eval()
    assert model(input_ids=IDS, attention_mask=MASK).logits.isfinite().all()
    model.get_submodule(PARTS[old]).verify().raise_if_failed()


def test_an_argument_that_the_new_model_would_drop_is_refused_when_it_comes():
    torch.manual_seed(0)
    model = hf.BertForSequenceClassification(CONFIGS["Bert"](16)).eval()
    other = hf.DistilBertModel(CONFIGS["DistilBert"](12)).eval()
    aa.swap(model, "bert", other, inputs={"input_ids": IDS, "attention_mask": MASK})
    places = torch.arange(9).flip(0)[None]
    assert not torch.equal(model(IDS, MASK, position_ids=places).logits, model(IDS, MASK).logits)  # it takes these
    assert torch.equal(model(IDS, MASK, token_type_ids=None).logits, model(IDS, MASK).logits)
    with pytest.raises(ValueError, match="token_type_ids was None when this module was adapted"):
        model(IDS, MASK, token_type_ids=torch.ones_like(IDS))

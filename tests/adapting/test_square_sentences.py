"""As many sentences as tokens: sizes do not tell a mask of samples from one of all pairs of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa

IDS = torch.randint(0, 50, (8, 8), generator=torch.Generator().manual_seed(0))
SHOWN = torch.ones_like(IDS)
PADDED = SHOWN.clone()
PADDED[1:, 5:] = 0


class Reading(nn.Module):
    """A transformer that takes a mask for each sentence, or one for all of them, where anything is hidden."""

    def __init__(self, width, *, shared=False):
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.shared = nn.Embedding(50, width), shared
        self.layer = nn.TransformerEncoderLayer(width, 2, width, dropout=0, batch_first=True)

    def forward(self, input_ids, attention_mask):
        tokens = self.embed(input_ids)
        if not attention_mask.is_meta and attention_mask.all() and not self.shared:
            return self.layer(tokens)
        hidden = attention_mask == 0
        return self.layer(tokens, src_mask=hidden) if self.shared else self.layer(tokens, src_key_padding_mask=hidden)


@pytest.mark.parametrize("mask", [SHOWN, PADDED])
def test_a_mask_is_one_of_samples_unless_the_module_refuses_that(mask):
    given = {"input_ids": IDS, "attention_mask": mask}
    assert str(aa.capture(Reading(12).eval(), given).inputs["attention_mask"]) == "i64[B, N]"
    assert str(aa.capture(Reading(12, shared=True).eval(), given).inputs["attention_mask"]) == "i64[N, N]"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("mask", [SHOWN, PADDED])
def test_padding_changes_nothing_after_a_swap_for_sentences_of_equal_sizes(mask):
    net = aa.adapt(Reading(16), like=Reading(12), inputs={"input_ids": IDS, "attention_mask": mask}).eval()
    whole, part = net(IDS, PADDED), net(IDS[:, :5], PADDED[:, :5])
    torch.testing.assert_close(whole[1:, :5], part[1:])
    net.verify().raise_if_failed()


def test_ids_that_are_zeros_and_ones_are_no_mask_of_the_mask_beside_them():
    given = {"input_ids": IDS % 2, "attention_mask": PADDED}
    assert [str(spec.dims[0]) for spec in aa.capture(Reading(12).eval(), given).inputs.leaves] == ["B", "B"]


def test_a_mask_for_each_sentence_is_refused_where_one_is_taken_for_all():
    given = {"input_ids": IDS, "attention_mask": PADDED}
    with pytest.raises(aa.MatchError, match="one for all items") as caught:
        aa.adapt(Reading(16, shared=True), like=Reading(12), inputs=given)
    assert "src_key_padding_mask" in str(caught.value)

"""Small models of every modality in each other's place, as the zoo benchmark tries them."""

import pytest
import torch
from guests import guest
from torch import nn

import autoadapt as aa

pytestmark = [pytest.mark.guest, pytest.mark.slow]

PAIRS = {
    "audio": ["hubert for data2vec", "wavlm for wav2vec2 of half the rate", "crnn for cnn", "cnn for crnn"],
    "graph": ["gat for gin", "graphsage for gcn"],
    "text": ["albert for torch encoder", "lstm for bert", "deberta-v2 for gru", "t5 encoder for distilbert"],
    "video": ["timesformer for vivit", "videomae for vivit", "x3d style for r3d_18", "vit of images for r3d_18"],
    "volume": ["unet for segresnet", "swin for segresnet", "segresnet for unet"],
}
NEEDS = {"audio": "transformers", "text": "transformers", "graph": "torch_geometric", "volume": "monai"}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own
@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in PAIRS.items() for name in names])
def test_models_of_a_modality_serve_each_other_at_other_sizes_with_masks_and_in_training(family, name):
    guest(NEEDS.get(family, "torchvision"))
    trial = pytest.importorskip("benchmarks.zoo_pairs").pair_trial(family, name)
    assert (trial["outcome"], trial.get("reason")) == ("exact", None)


class Llava(nn.Module):
    """A projector that reads a hidden state of a vision tower without its class token."""

    def __init__(self, tower):
        super().__init__()
        self.vision_tower, self.project = tower, nn.Linear(24, 8)

    def forward(self, pixel_values):
        states = self.vision_tower(pixel_values, output_hidden_states=True).hidden_states
        return self.project(states[-2][:, 1:])


@pytest.mark.parametrize(("kind", "width"), [("Siglip", 16), ("Dinov2", 20), ("CLIP", 12)])
def test_a_vision_tower_with_a_class_token_or_without_serves_llava(kind, width):
    hf = guest("transformers")
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    old = hf.CLIPVisionModel(hf.CLIPVisionConfig(hidden_size=24, intermediate_size=32, **sizes)).eval()
    name = f"{kind}Vision" if kind != "Dinov2" else kind
    more = {"mlp_ratio": 2} if kind == "Dinov2" else {"intermediate_size": 32}
    new = getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(hidden_size=width, **more, **sizes)).eval()
    image = torch.randn(2, 3, 32, 32)
    model = aa.swap(Llava(old).eval(), "vision_tower", new, inputs=image)
    (adapter,) = [one for one in model.vision_tower.adapters.modules() if isinstance(one, nn.Linear)]
    cells = new(image, output_hidden_states=True).hidden_states[-2][:, -16:]
    torch.testing.assert_close(model(image), model.project(adapter(cells)))

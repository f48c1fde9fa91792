"""Attention whose queries, keys and values are made by layers of their own, which may read other channels each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import nn

from autoadapt.contracts.views import aliased, copy_module

# Dimension letters: B samples, L queries, S keys, H heads, E channels of the attention.

_PARTS = ("q", "k", "v")
_WEIGHTS = {"in_proj_weight", "in_proj_bias", "bias_k", "bias_v", *(f"{part}_proj_weight" for part in _PARTS)}


class AttentionProjection(nn.Linear):
    """A linear layer whose weights are drawn as `nn.MultiheadAttention` draws them."""

    def reset_parameters(self) -> None:
        """Draw a weight anew (Glorot, uniform); the offset is zero."""
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class OpenedAttention(nn.MultiheadAttention):
    """What `nn.MultiheadAttention` computes, with `q_proj`, `k_proj` and `v_proj` in the place of its joint weight."""

    q_proj: AttentionProjection
    k_proj: AttentionProjection
    v_proj: AttentionProjection

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend, as the class that it was.

        Shape:
            query: `[L, B, *]`, `[B, L, *]` with `batch_first`, or `[L, *]`; key and value alike, with S places.
            return: As the query, with E channels; weights `[B, L, S]`, `[B, H, L, S]` if not averaged, or None.

        Raises:
            RuntimeError: A causal mask is announced and not given.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        turn = _turn(query.dim() == 3, self.batch_first)
        made = zip((self.q_proj, self.k_proj, self.v_proj), (query, key, value), strict=True)
        query_BLE, key_BSE, value_BSE = (project(turn(tensor)) for project, tensor in made)
        query_BHLE, key_BHSE, value_BHSE = map(self._heads, (query_BLE, *self._lengthened(key_BSE, value_BSE)))
        mask = self._mask(attn_mask, key_padding_mask, query_BHLE, key_BHSE)
        share = self.dropout if self.training else 0.0
        if need_weights:
            scores_BHLS = query_BHLE * self.head_dim**-0.5 @ key_BHSE.transpose(2, 3)
            scores_BHLS = scores_BHLS if mask is None else scores_BHLS + mask
            weights_BHLS = nn.functional.dropout(scores_BHLS.softmax(3), share, self.training)
            made_BHLE = weights_BHLS @ value_BHSE
        else:
            made_BHLE = nn.functional.scaled_dot_product_attention(query_BHLE, key_BHSE, value_BHSE, mask, share)
        answer = self.out_proj(made_BHLE.transpose(1, 2).flatten(2))
        answer = answer if self.batch_first and query.dim() == 3 else answer.transpose(0, 1)
        if not need_weights:
            return answer.reshape(*query.shape[:-1], -1), None
        weights = weights_BHLS.mean(1) if average_attn_weights else weights_BHLS
        return answer.reshape(*query.shape[:-1], -1), weights if query.dim() == 3 else weights[0]

    def _heads(self, tensor_BSE: torch.Tensor) -> torch.Tensor:
        return tensor_BSE.reshape(*tensor_BSE.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _lengthened(self, key_BSE: torch.Tensor, value_BSE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values with the learned one, and the one of zeros, where the attention has these."""
        if self.bias_k is not None and self.bias_v is not None:
            learned = (one.expand(key_BSE.shape[0], -1, -1) for one in (self.bias_k, self.bias_v))
            pairs = zip((key_BSE, value_BSE), learned, strict=True)
            key_BSE, value_BSE = (torch.cat([one, other], 1) for one, other in pairs)
        longer = (0, 0, 0, int(self.add_zero_attn))
        return nn.functional.pad(key_BSE, longer), nn.functional.pad(value_BSE, longer)

    def _mask(
        self, mask: torch.Tensor | None, padding: torch.Tensor | None, query_BHLE: torch.Tensor, key_BHSE: torch.Tensor
    ) -> torch.Tensor | None:
        """What is added to scores, `[B or 1, H or 1, L or 1, S]`; those lengthened with are seen by all."""
        found = []
        if mask is not None:
            found.append(mask.reshape(-1, self.num_heads, *mask.shape[1:]) if mask.dim() == 3 else mask)
        if padding is not None:
            found.append((padding if padding.dim() == 2 else padding[None])[:, None, None])
        if not found:
            return None
        zero = query_BHLE.new_zeros(())
        added = sum(torch.where(one, -torch.inf, zero) if one.dtype == torch.bool else one for one in found)
        assert isinstance(added, torch.Tensor), "there is one"
        return nn.functional.pad(added, (0, key_BHSE.shape[2] - added.shape[-1])).to(query_BHLE.dtype)


def _turn(is_batched: bool, batch_first: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """What brings a tensor to samples first."""
    if not is_batched:
        return lambda tensor: tensor.unsqueeze(0)
    return (lambda tensor: tensor) if batch_first else (lambda tensor: tensor.transpose(0, 1))


def open_attention(module: nn.Module, *, is_shared: bool = False) -> None:
    """Give an `nn.MultiheadAttention` layers for queries, keys and values, in place.

    Args:
        module: The attention; any other module is left as it is.
        is_shared: Whether the layers share memory with the joint weight.
    """
    if type(module) is not nn.MultiheadAttention:
        return
    joint, offset = module.in_proj_weight, module.in_proj_bias
    weights = [getattr(module, f"{part}_proj_weight") for part in _PARTS] if joint is None else joint.chunk(3)
    offsets = [None] * 3 if offset is None else offset.chunk(3)
    source = module.q_proj_weight if joint is None else joint
    for part, weight, own in zip(_PARTS, weights, offsets, strict=True):
        layer = AttentionProjection(weight.shape[1], len(weight), bias=own is not None, device="meta")
        layer.weight = nn.Parameter(_own(weight, is_shared), requires_grad=source.requires_grad)
        if own is not None:
            layer.bias = nn.Parameter(_own(own, is_shared), requires_grad=offset.requires_grad)
        layer.training = module.training
        setattr(module, f"{part}_proj", layer)
        setattr(module, f"{part}_proj_weight", None)
    module.register_parameter("in_proj_weight", None)
    module.register_parameter("in_proj_bias", None)
    module._qkv_same_embed_dim = False
    module.__class__ = OpenedAttention


def _own(tensor: torch.Tensor, is_shared: bool) -> torch.Tensor:
    return tensor.detach() if is_shared else tensor.detach().clone()


def opened(model: nn.Module, without: str, run: Callable[[nn.Module], object]) -> nn.Module:
    """A copy of a model with its attention opened; the model itself where it does not run so: it reads a joint weight.

    Attention whose weights another module has too, or that are computed from others, is left as it is.

    Args:
        model: It is not changed.
        without: Path of a module whose inside is left as it is.
        run: Runs a model.
    """
    made = copy_module(model, aliased)
    named = list(made.named_modules())
    owners = Counter(id(one) for _, module in named for one in module._parameters.values())
    for path, module in named:
        own = {name: one for name, one in module._parameters.items() if one is not None}
        is_plain = own.keys() <= _WEIGHTS and all(owners[id(one)] == 1 for one in own.values())
        if is_plain and not f"{path}.".startswith(f"{without}."):
            open_attention(module, is_shared=True)
    if any(isinstance(module, OpenedAttention) for _, module in named):
        try:
            run(made)
        except Exception:  # whatever code raises that reads what is gone
            return model
    return made


def attention_of(model: nn.Module, layers: Iterable[str]) -> tuple[str, ...]:
    """Paths of the attention in a model that has to be opened so that it has some layers."""
    above = dict.fromkeys(path.rpartition(".")[0] for path in layers if path.endswith("_proj"))
    return tuple(path for path in above if type(model.get_submodule(path)) is nn.MultiheadAttention)

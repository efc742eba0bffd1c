"""The classifier f(x) = V φ(x; θ) + b: any Transformer of `AutoModel` as φ, one pooling rule, one linear head.

The head is a single linear layer, as in the paper (not RoBERTa's two-layer head): V is `head.weight` (C, H) and b is
`head.bias` (C,). `Classifier` is a `PreTrainedModel`, so `save_pretrained`, `from_pretrained`, `Trainer` and peft work
on it unchanged.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from lpft_utils.common.errors import ModelError
from lpft_utils.models.backbones import is_decoder, load_backbone
from lpft_utils.models.heads import initial_head

POOLINGS = ("first", "mean", "last")


class ClassifierConfig(PreTrainedConfig):
    """Configuration of `Classifier`.

    Args:
        backbone_config: Configuration of φ, as an object or as the dictionary that `to_dict` gives.
        pooling: Which token's last hidden state is φ(x): "first", "last" or "mean" (over tokens, padding never counts).
        head_bias: Whether the head has a bias b. Without it the "+1" of the pre-train-effective kernel is absent.
        **kwargs: Further arguments of `PreTrainedConfig`, for example `num_labels`.
    """

    model_type = "lpft_classifier"
    sub_configs = {"backbone_config": AutoConfig}  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        pooling: str = "first",
        head_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config if backbone_config is not None else BertConfig()
        if pooling not in POOLINGS:
            raise ModelError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}.")
        self.pooling = pooling
        self.head_bias = head_bias
        # The base class hands its own choice of attention down, and None there would mean attention without any mask.
        kwargs.setdefault("attn_implementation", self.backbone_config._attn_implementation)
        if kwargs.get("pad_token_id") is None:
            kwargs["pad_token_id"] = getattr(self.backbone_config, "pad_token_id", None)
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """H, the dimension of φ(x)."""
        return self.backbone_config.hidden_size


class Classifier(PreTrainedModel):
    """f(x) = V φ(x; θ) + b with φ a Transformer (`backbone`) and V, b one linear layer (`head`)."""

    config: ClassifierConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    config_class = ClassifierConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    # Attention is the backbone's business: whatever it supports is supported here.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ClassifierConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config) if backbone is None else backbone
        if getattr(self.backbone, "pooler", None) is not None:
            # BERT's tanh pooler is no part of φ: dead weight in every kernel. Some families call it without asking.
            self.backbone.pooler = nn.Identity()
        self._backbone_arguments = set(inspect.signature(self.backbone.forward).parameters)
        if "input_ids" not in self._backbone_arguments:
            kind = type(self.backbone).__name__
            raise ModelError(f"backbone: expected a model of texts, which takes input_ids, got {kind}.")
        self.head = nn.Linear(config.hidden_size, config.num_labels or 0, bias=config.head_bias)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is getattr(self, "head", None):
            self.reset_head(seed=None)
        elif hasattr(self, "backbone"):
            self.backbone._init_weights(module)

    @torch.no_grad()
    def reset_head(self, seed: int | None = 0) -> None:
        """Draw V ~ N(0, 0.02²) and set b = 0, the published initialisation of FT.

        Args:
            seed: Seed of the draw, or None to use torch's global generator.
        """
        self.head.weight.copy_(initial_head(*self.head.weight.shape, seed=seed))
        if self.head.bias is not None:
            self.head.bias.zero_()

    @torch.no_grad()
    def set_head(self, V: Tensor, b: Tensor | None) -> None:
        """Install a head.

        Args:
            V: Weights, shape (C, H).
            b: Bias, shape (C,); None only where the head has no bias.

        Raises:
            ModelError: If a shape differs from the head's, or a bias is missing or not wanted.
        """
        expected = tuple(self.head.weight.shape), None if self.head.bias is None else tuple(self.head.bias.shape)
        given = tuple(V.shape), None if b is None else tuple(b.shape)
        if given != expected:
            raise ModelError(f"set_head: expected V (C, H) and b (C,) of the shapes {expected}, got {given}.")
        self.head.weight.copy_(V)
        if b is not None:
            self.head.bias.copy_(b)

    @torch.no_grad()
    def scale_head(self, norm: float) -> float:
        """Scale V and b by one factor so that ‖V‖_F is `norm`: the logits change by a temperature and nothing else.

        Args:
            norm: Wanted ‖V‖_F, positive.

        Returns:
            The factor.

        Raises:
            ModelError: If the norm is not positive, or V is zero and so has no direction.
        """
        now = torch.linalg.matrix_norm(self.head.weight.double()).item()
        if not norm > 0 or now == 0:
            raise ModelError(f"scale_head: expected a positive norm and a head V ≠ 0, got {norm!r} and ‖V‖ = {now:g}.")
        factor = norm / now
        self.head.weight.mul_(factor)
        if self.head.bias is not None:
            self.head.bias.mul_(factor)
        return factor

    def features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """φ(x): the pooled last hidden state.

        Args:
            input_ids: Token ids, shape (B, T).
            attention_mask: 1 for tokens and 0 for padding, shape (B, T); None means no padding.
            token_type_ids: Segment ids, shape (B, T); ignored by backbones without segments.
            inputs_embeds: Embeddings in place of `input_ids`, shape (B, T, E).

        Returns:
            Features, shape (B, H).

        Raises:
            ModelError: If the backbone is an encoder and decoder in one that needs more than a text.
            ValueError: What the backbone itself refuses.
        """
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
        }
        given: dict[str, Any] = {k: v for k, v in batch.items() if v is not None and k in self._backbone_arguments}
        if "use_cache" in self._backbone_arguments:
            given["use_cache"] = False  # decoders would otherwise keep keys and values that nobody reads
        try:
            hidden = self.backbone(**given).last_hidden_state  # (B, T, H)
        except ValueError as error:
            if not getattr(self.backbone.config, "is_encoder_decoder", False):
                raise
            kind = type(self.backbone).__name__
            raise ModelError(
                f"backbone: {kind} takes more than a text ({error}). Expected an encoder or a decoder: use the encoder "
                "alone, such as T5EncoderModel of T5."
            ) from error
        return pool(hidden, attention_mask, self.config.pooling)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Logits and, with labels, the mean cross-entropy.

        Args:
            input_ids: Token ids, shape (B, T).
            attention_mask: 1 for tokens and 0 for padding, shape (B, T).
            token_type_ids: Segment ids, shape (B, T).
            inputs_embeds: Embeddings in place of `input_ids`, shape (B, T, E).
            labels: Class indices, shape (B,).
            output_attentions: Accepted for peft's sake; must not be True.
            output_hidden_states: Accepted for peft's sake; must not be True.
            return_dict: Accepted for peft's sake; must not be False.

        Returns:
            `SequenceClassifierOutput` with `logits` (B, C) and `loss` (scalar, or None without labels).

        Raises:
            ModelError: If attentions, hidden states or a tuple are asked for.
        """
        if output_attentions or output_hidden_states or return_dict is False:
            raise ModelError(
                "Classifier returns logits only, by name; call `model.backbone` for attentions or hidden states."
            )
        logits = self.head(self.features(input_ids, attention_mask, token_type_ids, inputs_embeds))  # (B, C)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)  # pyright: ignore[reportArgumentType]


def pool(hidden: Tensor, attention_mask: Tensor | None, pooling: str) -> Tensor:
    """Reduce hidden states (B, T, H) to features (B, H).

    Args:
        hidden: Last hidden states, shape (B, T, H).
        attention_mask: 1 for tokens and 0 for padding (left or right), shape (B, T); None means no padding.
        pooling: "first" and "last" take the first and last non-padding token, "mean" averages the non-padding ones.

    Returns:
        Features, shape (B, H).
    """
    if attention_mask is None:
        attention_mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    if pooling == "mean":
        weight = attention_mask.to(hidden.dtype).unsqueeze(-1)  # (B, T, 1)
        return (hidden * weight).sum(1) / weight.sum(1)
    if pooling == "first":
        position = attention_mask.long().argmax(1)  # first 1, also under left padding
    else:
        steps = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
        position = (attention_mask.long() * steps).argmax(1)  # last 1
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), position]


def load_classifier(
    backbone: str, n_classes: int, *, pooling: str = "auto", head_bias: bool = True, seed: int = 0
) -> Classifier:
    """Pre-trained φ with a fresh head V ~ N(0, 0.02²), b = 0, in float32 and evaluation mode.

    Args:
        backbone: "minilm", "mpnet", "tiny", a local folder or a Hub id (safetensors weights only).
        n_classes: C, at least 2.
        pooling: "first", "mean", "last", or "auto": first token for encoders, last non-padding token for decoders.
        head_bias: Whether the head has a bias.
        seed: Seed of the head's draw (and of all weights for "tiny").

    Returns:
        The classifier.

    Raises:
        ModelError: If the backbone cannot be loaded, has no safetensors weights, or an argument is out of range.
    """
    if n_classes < 2:
        raise ModelError(f"n_classes: expected at least 2, got {n_classes}.")
    if pooling not in ("auto", *POOLINGS):
        raise ModelError(f"pooling: expected one of auto, {', '.join(POOLINGS)}, got {pooling!r}.")
    phi = load_backbone(backbone)
    if pooling == "auto":
        pooling = "last" if is_decoder(phi.config) else "first"
    config = ClassifierConfig(phi.config, pooling=pooling, head_bias=head_bias, num_labels=n_classes)
    model = Classifier(config, backbone=phi)
    model.reset_head(seed)
    return model.eval()


AutoConfig.register(ClassifierConfig.model_type, ClassifierConfig)
AutoModelForSequenceClassification.register(ClassifierConfig, Classifier)

"""Ways in which a per-example gradient can be wrong without a word, each against autograd one example at a time."""

import peft
import pytest
import torch
from small_models import H, classifier, relative, tokens
from torch import nn
from transformers import FNetConfig, ModernBertConfig

from lpft_utils.common.errors import KernelError
from lpft_utils.models.classifier import Classifier, ClassifierConfig
from lpft_utils.ntk import kernel


def truth(model, rows, columns=None, names=None, features=None):
    """F from plain autograd, one example at a time, as wide as the inputs are."""
    compute = features or (lambda m, batch: m.features(**batch))
    named = dict(model.named_parameters())
    wanted = [p for n, p in named.items() if (n in names if names else p.requires_grad and not n.startswith("head."))]

    def jacobian(inputs):
        J = []
        for n in range(len(next(iter(inputs.values())))):
            f = compute(model, {k: t[n : n + 1] for k, t in inputs.items()})[0] @ model.head.weight.T
            for one in f:
                g = torch.autograd.grad(one, wanted, retain_graph=True, allow_unused=True)
                J.append(
                    torch.cat(
                        [
                            torch.zeros_like(p).flatten() if x is None else x.flatten()
                            for p, x in zip(wanted, g, strict=True)
                        ]
                    )
                )
        return torch.stack(J)

    left, C = jacobian(rows), len(model.head.weight)
    right = left if columns is None else jacobian(columns)
    return (left @ right.T).view(len(left) // C, C, len(right) // C, C)


class Words(nn.Module):
    """Mean of embedded tokens; a test puts something on the way."""

    def __init__(self, way=lambda n, ids, h: h) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.inner, self.extra = nn.Embedding(50, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.pos, self.scale = nn.Embedding(64, 6), nn.Parameter(torch.rand(6) + 0.5)
        self.head, self.way = nn.Linear(6, 3), way
        self.double()

    def features(self, input_ids, attention_mask):
        h = torch.tanh(self.way(self, input_ids, self.inner(self.embed(input_ids))))
        keep = attention_mask[:, :, None].to(h.dtype)
        return (h * keep).sum(1) / keep.sum(1)


LONG = tokens((9, 4, 6, 8, 44, 46, 50))  # some texts longer than 40 tokens


def part(inputs, index):
    return {k: t[index] for k, t in inputs.items()}


def trimmed(inputs):
    width = int(inputs["attention_mask"].sum(1).max())
    return {k: t[:, :width] for k, t in inputs.items()}


def by_text_length(n, ids, h):
    return n.extra(h) if ids.shape[1] > 40 else h


@pytest.mark.parametrize("block_size", [None, 2, 1])
def test_a_parameter_that_only_some_batches_use_keeps_its_share(block_size):
    """Its gradient is zero for short texts, whatever they are batched with: φ depends on the width, so that is kept."""
    model = Words(by_text_length)
    short, long = trimmed(part(LONG, slice(0, 4))), trimmed(part(LONG, slice(4, 7)))
    for rows, columns in ((long, short), (short, long)):
        size = {} if block_size is None else {"block_size": block_size}
        assert relative(kernel(model, rows, columns, **size).F, truth(model, rows, columns)) < 1e-10
    assert relative(kernel(model, LONG, block_size=3).F, truth(model, LONG)) < 1e-10


def test_a_parameter_that_a_block_s_first_batch_does_not_use_keeps_its_share():
    class Long(Words):
        def features(self, input_ids, attention_mask):
            phi = super().features(input_ids, attention_mask)
            return self.extra(phi) if attention_mask.sum(1).max() > 40 else phi

    model, inputs = Long(), tokens((3, 5) * 13 + (44, 46, 50))
    made = kernel(model, inputs)
    assert made.spec["alone"] and made.spec["block_size"] == len(inputs["input_ids"])
    assert relative(made.F, truth(model, inputs)) < 1e-10


@pytest.mark.parametrize(
    "way",
    [
        lambda n, ids, h: h + n.pos(torch.arange(ids.shape[1])[None])[0],
        lambda n, ids, h: h + n.pos(torch.arange(ids.shape[1])[None]),
        lambda n, ids, h: h + n.pos(torch.arange(ids.shape[1])[None]).sum((0, 1)),
        lambda n, ids, h: h + n.extra(n.pos(torch.arange(ids.shape[1])[None])),
        lambda n, ids, h: h * n.extra(n.pos.weight[: ids.shape[1]]),
    ],
    ids=["first of one", "broadcast", "summed", "through a layer", "the table itself"],
)
def test_what_is_computed_once_for_the_batch_is_exact(way):
    model, inputs = Words(way), tokens()
    assert relative(kernel(model, inputs).F, truth(model, inputs)) < 1e-10


@pytest.mark.parametrize("threshold", [5, 1])
def test_a_bare_vector_applied_to_some_lengths_only_is_exact(threshold):
    def way(n, ids, h):
        return n.scale * h if ids.shape[1] <= threshold else h

    model, inputs = Words(way), tokens((9, 4, 6, 1, 9, 3))
    singles = trimmed(part(inputs, slice(1, 2))), trimmed(part(inputs, slice(3, 4)))
    for x in (inputs, *singles):
        assert relative(kernel(model, x, block_size=1).F, truth(model, x)) < 1e-10


def test_parameters_that_the_features_never_reach_are_an_error():
    tuned = classifier("bert").float()
    tuned.config.vocab_size = 50  # peft finds the word embeddings by it
    tuned = peft.get_peft_model(
        tuned,
        peft.PromptTuningConfig(
            task_type="SEQ_CLS", num_virtual_tokens=3, num_layers=2, num_attention_heads=2, token_dim=H
        ),
    )
    with pytest.raises(
        KernelError, match=r"φ depends on none of the 1 parameters asked for \(prompt_encoder.*features="
    ):
        kernel(tuned, tokens(), head="base_model.head")
    model = classifier("bert")
    model.unused = nn.Linear(3, 3).double()
    with pytest.raises(KernelError, match=r"depends on unused\.weight for none of the examples"):
        kernel(model, tokens(), parameters=["unused.weight", "backbone.embeddings.LayerNorm.bias"])
    model.requires_grad_(False)
    with pytest.raises(KernelError, match="none of the model's body requires gradients"):
        kernel(model, tokens())


@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_a_model_that_looks_at_padding_keeps_the_width_it_was_given(block_size):
    torch.manual_seed(0)
    config = FNetConfig(
        vocab_size=50, hidden_size=H, num_hidden_layers=2, intermediate_size=24, max_position_embeddings=32
    )
    model, inputs = Classifier(ClassifierConfig(config, num_labels=3, pooling="mean")).double().eval(), tokens()

    def compute(m, batch):
        hidden = m.backbone(input_ids=batch["input_ids"]).last_hidden_state
        keep = batch["attention_mask"][:, :, None].to(hidden.dtype)
        return (hidden * keep).sum(1) / keep.sum(1)

    made = kernel(model, inputs, block_size=block_size, features=compute)
    assert not made.spec["trimmed"]
    assert relative(made.F, truth(model, inputs, features=compute)) < 1e-10


def test_an_input_that_is_no_sequence_of_tokens_is_not_cut():
    class Described(Words):
        def features(self, input_ids, attention_mask, description):
            return super().features(input_ids, attention_mask) + self.extra(description[:, -6:])

    model, inputs = Described(), tokens()
    description = torch.randn(5, inputs["input_ids"].shape[1], dtype=torch.float64)  # D = T
    inputs = {**inputs, "description": description}
    assert relative(kernel(model, inputs, block_size=1).F, truth(model, inputs)) < 1e-10


def test_a_gradient_that_is_not_finite_is_an_error_that_names_a_layer():
    class Root(Words):
        def features(self, input_ids, attention_mask):
            h = self.inner(self.embed(input_ids))
            return (h - h).abs().sqrt().mean(1) + super().features(input_ids, attention_mask)

    with pytest.raises(KernelError, match=r"gradient .* is not finite, though φ is.* 'inner\."):
        kernel(Root(), tokens())


def test_features_that_are_not_finite_name_the_layer_where_it_begins():
    model = Words()
    with torch.no_grad():
        model.inner.weight[0, 0] = torch.nan
    with pytest.raises(
        KernelError, match=r"φ has entries that are not finite; the first come out of 'inner' \(Linear\)"
    ):
        kernel(model, tokens())


def test_masked_windows_of_modern_bert_name_the_layer():
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=50, hidden_size=H, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        local_attention=4, pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2,
        attn_implementation="eager",
    )  # fmt: skip
    model, inputs = Classifier(ClassifierConfig(config, num_labels=3)).double().eval(), tokens((14, 3, 6))
    with pytest.raises(KernelError, match=r"not finite; the first come out of 'backbone\.layers\.1\.attn"):
        kernel(model, inputs)  # padding beyond the window attends to nothing
    assert kernel(model, tokens((14, 13, 14))).F.isfinite().all()


def test_a_head_tied_to_the_embeddings_is_refused():
    model = Words()
    model.head = nn.Linear(6, 50, bias=False).double()
    model.head.weight = model.embed.weight
    with pytest.raises(KernelError, match=r"'head\.weight' is also 'embed\.weight' \(tied weights\)"):
        kernel(model, tokens())


@pytest.mark.parametrize("head", ["head", "head.base_layer"])
def test_an_adapter_on_the_head_is_refused(head):
    model = classifier("bert")
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["query", "head"]), model)
    with pytest.raises(KernelError, match=r"carries an adapter.*modules_to_save"):
        kernel(model.double(), tokens(), head=head)


def test_a_head_kept_beside_an_adapter_is_suggested_by_name():
    model = peft.get_peft_model(
        classifier("bert"), peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["head"])
    )
    with pytest.raises(KernelError, match=r"such as 'base_model\.model\.head\.modules_to_save\.default'"):
        kernel(model.double(), tokens(), head="base_model.model.head")


def test_a_wrong_rule_is_found_and_autograd_asked(monkeypatch):
    """Also where the gradient is a small part of the whole, and the mistake small."""
    from lpft_utils.ntk import rules

    true = rules.RULES["layer_norm"]

    def wrong(at, input, shape, weight=None, bias=None, eps=1e-5, *rest):
        return true(at, input, shape, weight, bias, eps + 1e-6, *rest)

    model, inputs = classifier("bert"), tokens()
    with torch.no_grad():
        model.head.weight.mul_(1e-6)
    exact = truth(model, inputs)
    monkeypatch.setitem(rules.RULES, "layer_norm", wrong)
    made = kernel(model, inputs)
    assert relative(made.F, exact) < 1e-10
    assert any("LayerNorm.weight" in name for name in made.spec["autograd"])
    with pytest.raises(KernelError, match=r"LayerNorm\.weight.*differs from autograd's"):
        kernel(model, inputs, unsupported="error")


def test_a_gradient_given_to_the_wrong_example_is_found(monkeypatch):
    from lpft_utils.ntk import rules

    true = rules.by_example
    monkeypatch.setattr(rules, "by_example", lambda x, B: None if (y := true(x, B)) is None else y.roll(1, 0))
    model, inputs = classifier("bert"), tokens((9, 9, 9))
    made = kernel(model, inputs)
    assert made.spec["alone"] and relative(made.F, truth(model, inputs)) < 1e-10


def test_an_embedding_that_ignores_its_padding_id_is_exact():
    class Plain(nn.Embedding):
        def forward(self, input):
            return nn.functional.embedding(input, self.weight)

    model = Words(lambda n, ids, h: h + n.extra(n.table(ids)))
    model.table = Plain(50, 6, padding_idx=0).double()
    with torch.no_grad():
        model.table.weight.normal_()
    inputs = tokens()
    inputs = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
    assert relative(kernel(model, inputs).F, truth(model, inputs)) < 1e-10


def test_examples_that_influence_each_other_pass_alone():
    class Mixed(Words):
        def features(self, input_ids, attention_mask):
            phi = super().features(input_ids, attention_mask)
            return phi + phi.flip(0)

    model, inputs = Mixed(), tokens()
    made = kernel(model, inputs)
    assert made.spec["alone"] and relative(made.F, truth(model, inputs)) < 1e-10


def test_a_classifier_of_one_token_for_every_text_keeps_both_sides_apart():
    model = classifier("bert", "mean")
    rows, columns = tokens((12, 11, 9)), tokens((1, 2))
    assert relative(kernel(model, rows, columns, block_size=1).F, truth(model, rows, columns)) < 1e-10


class Gate(Words):
    """A part that starts at zero, as adapters do: φ does not show it, its gradient does."""

    def __init__(self, part) -> None:
        super().__init__()
        self.gate, self.part = nn.Parameter(torch.zeros((), dtype=torch.float64)), part

    def features(self, input_ids, attention_mask):
        phi = super().features(input_ids, attention_mask)
        return phi + self.gate * self.part(phi, input_ids)


@pytest.mark.parametrize(
    "part",
    [lambda phi, ids: phi * ids.shape[1], lambda phi, ids: phi.mean(0, keepdim=True)],
    ids=["the width", "the other examples"],
)
def test_a_part_that_starts_at_zero_is_seen_by_its_gradient(part):
    model, inputs = Gate(part), tokens()
    for block_size in (1, 5):
        assert relative(kernel(model, inputs, block_size=block_size).F, truth(model, inputs)) < 1e-10


def test_a_width_that_matters_only_between_short_and_long_is_found():
    def way(n, ids, h):
        return h * 2 if ids.shape[1] == 5 else h

    model, inputs = Words(way), tokens((9, 4, 7, 5, 7, 3, 9, 8))  # examined are the lengths 3, 7 and 9
    assert relative(kernel(model, inputs, block_size=1).F, truth(model, inputs)) < 1e-10


def test_examples_given_back_in_another_order_are_told_apart():
    class Sorted(Words):
        def features(self, input_ids, attention_mask):
            order = input_ids[:, 0].argsort()
            back = order.argsort()
            return super().features(input_ids[order], attention_mask[order])[back]

    model, inputs = Sorted(), tokens((6,) * 13)
    made = kernel(model, inputs)
    assert made.spec["alone"] and relative(made.F, truth(model, inputs)) < 1e-10


@pytest.mark.parametrize("V", [[[1.0] * 6, [2.0] * 6], [[1.0] * 6, [-1.0] * 6, [0.0] * 6]])
def test_a_head_whose_rows_depend_on_each_other_hides_nothing(V, monkeypatch):
    from lpft_utils.ntk import rules

    true = rules.by_example
    monkeypatch.setattr(rules, "by_example", lambda x, B: None if (y := true(x, B)) is None else y.roll(1, 0))
    model, inputs, V = Words(), tokens((6, 6, 6)), torch.tensor(V, dtype=torch.float64)
    model.head = nn.Linear(6, len(V)).double()
    with torch.no_grad():
        model.head.weight.copy_(V)
    assert relative(kernel(model, inputs).F, truth(model, inputs)) < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_constant_of_low_precision_does_not_loosen_the_comparison(dtype):
    class Constant(Gate):
        def features(self, input_ids, attention_mask):
            scale = torch.ones(6, dtype=dtype).to(torch.float64)
            return super().features(input_ids, attention_mask) * scale

    model, inputs = Constant(lambda phi, ids: phi.mean(0, keepdim=True)), tokens()
    with torch.no_grad():
        model.gate += 1e-4
    assert relative(kernel(model, inputs).F, truth(model, inputs)) < 1e-10


def test_a_model_that_writes_into_its_inputs_is_exact():
    class Writes(Words):
        def features(self, input_ids, attention_mask):
            input_ids.copy_((input_ids + 1) % 50)
            return super().features(input_ids, attention_mask) * self.scale.prod()

    model, inputs = Writes(), tokens()
    before = {k: t.clone() for k, t in inputs.items()}
    made = kernel(model, inputs, block_size=2)
    assert all(torch.equal(t, before[k]) for k, t in inputs.items())
    copied = lambda m, batch: m.features(**{k: t.clone() for k, t in batch.items()})  # noqa: E731
    assert relative(made.F, truth(model, inputs, features=copied)) < 1e-10


def test_random_features_are_refused():
    class Random(Words):
        def features(self, input_ids, attention_mask):
            return nn.functional.dropout(super().features(input_ids, attention_mask), training=True)

    with pytest.raises(KernelError, match="φ differs between two calls"):
        kernel(Random(), tokens())


def test_a_folder_of_other_features_is_refused(tmp_path):
    model, inputs = Words(), tokens()
    kernel(model, inputs, folder=tmp_path)
    with pytest.raises(KernelError, match="holds another kernel"):
        kernel(model, inputs, folder=tmp_path, features=lambda m, batch: 2 * m.features(**batch))


@pytest.mark.parametrize(
    "way",
    [
        lambda n, ids, h: h + n.scale.repeat(2, 1)[0],
        lambda n, ids, h: h + nn.functional.embedding(ids, n.embed.weight, sparse=True),
    ],
    ids=["repeated", "sparse"],
)
def test_unusual_operations_are_exact(way):
    model, inputs = Words(way), tokens()
    assert relative(kernel(model, inputs).F, truth(model, inputs)) < 1e-10


def test_a_model_that_takes_one_example_only_is_exact():
    class One(Words):
        def features(self, input_ids, attention_mask):
            return super().features(input_ids, attention_mask) * (
                2 if attention_mask.sum() > 4 and input_ids[:, 0] else 1
            )

    model, inputs = One(), tokens()
    assert relative(kernel(model, inputs).F, truth(model, inputs)) < 1e-10

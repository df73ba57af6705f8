"""Loss at supervised positions against transformers' own, over all positions."""

import pytest
import torch
from torch import nn
from transformers.loss.loss_utils import ForCausalLMLoss

from llava.constants import IGNORE_INDEX
from llava.model.language_model import causal_lm
from llava.model.language_model.loss import supervised_loss
from tests.tiny import SMALL, tiny_images, tiny_llava


def case():
    torch.manual_seed(0)
    hidden = torch.randn(3, 20, 8, requires_grad=True)
    head = nn.Linear(8, 50, bias=False)
    labels = torch.randint(0, 50, (3, 20))
    labels[torch.rand(3, 20) < 0.6] = IGNORE_INDEX
    labels[:, 0] = 7  # never a target
    return hidden, head, labels


@pytest.mark.parametrize("num_items", [None, 100, torch.tensor(100)])
@pytest.mark.parametrize("chunk", [1, 7, 2048])
def test_equals_the_loss_over_all_positions(num_items, chunk):
    hidden, head, labels = case()
    expected = ForCausalLMLoss(head(hidden), labels, 50, num_items_in_batch=num_items)
    expected.backward()
    wanted = hidden.grad.clone(), head.weight.grad.clone()
    hidden.grad = head.weight.grad = None
    loss = supervised_loss(hidden, labels, head, num_items, chunk=chunk)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close((hidden.grad, head.weight.grad), wanted)


def test_head_sees_supervised_positions_only_and_a_chunk_at_most():
    hidden, head, labels = case()
    seen = []

    def spy(states):
        seen.append(len(states))
        return head(states)

    supervised_loss(hidden, labels, spy, chunk=5)
    assert sum(seen) == int((labels[:, 1:] != IGNORE_INDEX).sum())
    assert max(seen) <= 5


def test_model_returns_the_same_loss_and_no_logits(tmp_path, monkeypatch):
    model = tiny_llava(tmp_path, image_size=SMALL)
    ids = torch.tensor([[1, -200, 7, 9, 2]])
    full = model(ids, images=tiny_images(1, SMALL), labels=ids)
    lean = model(ids, images=tiny_images(1, SMALL), labels=ids, loss_only=True)
    torch.testing.assert_close(lean.loss, full.loss)
    assert lean.logits is None
    calls = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(causal_lm, "CHUNK", 1)
    model(ids, images=tiny_images(1, SMALL), labels=ids, loss_only=True)
    assert len(calls) == 3
    model.lm_head.weight.ds_id = 7  # as ZeRO-3 marks a sharded parameter, whose layer all must call equally often
    calls.clear()
    model(ids, images=tiny_images(1, SMALL), labels=ids, loss_only=True)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="labels"):
        model(ids, images=tiny_images(1, SMALL), loss_only=True)

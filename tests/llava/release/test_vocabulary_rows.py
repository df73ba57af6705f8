"""Rows for added tokens disturb no row that was there."""

import pytest
import torch

from llava.release.vocabulary_rows import cut, grown, grown_rows

STATE = {
    "model.embed_tokens.weight": torch.randn(10, 4),
    "lm_head.weight": torch.randn(10, 4).half(),
    "model.norm.weight": torch.randn(10),
}


def test_rows() -> None:
    assert grown_rows(10, 9) == grown_rows(10, 10) == 10
    assert grown_rows(32000, 32001) == 32064 and grown_rows(10, 65) == 128


def test_old_rows_keep_their_bits_and_new_ones_never_win() -> None:
    new = grown(STATE, 64)
    head = new["lm_head.weight"]
    assert head.shape == (64, 4) and head.dtype == torch.float16
    assert all(torch.equal(new[key][:10], STATE[key]) for key in STATE)
    assert torch.equal(new["model.norm.weight"], STATE["model.norm.weight"])
    logits = torch.randn(1000, 4) @ head.float().T
    assert int(logits.argmax(dim=1).max()) < 10


def test_cut_takes_them_away_again() -> None:
    back = cut(grown(STATE, 64), 10)
    assert all(torch.equal(back[key], STATE[key]) for key in STATE)
    with pytest.raises(ValueError, match="has 10 rows"):
        cut(STATE, 11)

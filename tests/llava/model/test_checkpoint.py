"""The projector file, the LoRA folder's extra file and the test that weights fit a model."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from llava.model.checkpoint import (
    NON_LORA_FILE,
    load_non_lora,
    load_projector,
    projector_state,
    read_adapter,
    require_fit,
    save_projector,
)

PUBLIC = {f"model.mm_projector.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mm_projector = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4))
        self.norm = nn.LayerNorm(4)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Inner()


def test_a_saved_projector_has_the_public_layout(tmp_path: Path) -> None:
    model = Outer().bfloat16()
    path = save_projector(model, tmp_path / "run" / "mm_projector.bin")
    stored = torch.load(path, weights_only=True)
    assert set(stored) == PUBLIC
    assert all(value.dtype == torch.bfloat16 and value.device.type == "cpu" for value in stored.values())
    assert torch.equal(stored["model.mm_projector.2.weight"], model.model.mm_projector[2].weight)
    assert path.stat().st_size < 10_000


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    model, other = Outer(), Outer()
    read = load_projector(save_projector(model, tmp_path / "mm_projector.bin"))
    other.model.mm_projector.load_state_dict(projector_state(read))
    assert torch.equal(other.model.mm_projector[0].weight, model.model.mm_projector[0].weight)
    again = load_projector(save_projector(read, tmp_path / "again.bin"))
    assert all(torch.equal(again[key], read[key]) for key in PUBLIC)


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "base_model.model.model.", "transformer."])
def test_any_prefix_becomes_the_public_one(tmp_path: Path, prefix: str) -> None:
    model = Outer()
    stored = {f"{prefix}mm_projector.{key}": value for key, value in model.model.mm_projector.state_dict().items()}
    torch.save(stored, tmp_path / "mm_projector.bin")
    assert set(load_projector(tmp_path)) == PUBLIC


def test_a_projector_of_one_layer(tmp_path: Path) -> None:
    torch.save({"model.mm_projector.weight": torch.ones(2, 2).half()}, tmp_path / "p.bin")
    state = load_projector(tmp_path / "p.bin")
    assert projector_state(state)["weight"].dtype == torch.float16


def test_tokens_and_newline_may_ride_along(tmp_path: Path) -> None:
    stored = {
        "mm_projector.weight": torch.ones(2, 2),
        "x.embed_tokens.weight": torch.ones(5, 2),
        "image_newline": torch.ones(2),
    }
    torch.save(stored, tmp_path / "p.bin")
    assert set(load_projector(tmp_path / "p.bin")) == {
        "model.mm_projector.weight",
        "model.embed_tokens.weight",
        "model.image_newline",
    }


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"model.mm_projector.weight": torch.ones(1), "lm_head.weight": torch.ones(1)}, tmp_path / "p.bin")
    with pytest.raises(ValueError, match=r"p\.bin is no projector file.*lm_head\.weight"):
        load_projector(tmp_path / "p.bin")
    torch.save({"model.embed_tokens.weight": torch.ones(1)}, tmp_path / "q.bin")
    with pytest.raises(ValueError, match=r"q\.bin holds no key with 'mm_projector\.'"):
        load_projector(tmp_path / "q.bin")


def test_a_save_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_projector(Outer(), tmp_path / "mm_projector.bin")
    before = path.read_bytes()

    def torn(state: dict[str, Tensor], target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="no space"):
        save_projector(Outer(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["mm_projector.bin"]


def test_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of 2 keys holds 'mm_projector\.'"):
        save_projector(nn.Linear(2, 2), tmp_path / "p.bin")
    with pytest.raises(ValueError, match=r"no data in 0\.weight.*ZeRO-3"):
        save_projector({"model.mm_projector.0.weight": torch.empty(0)}, tmp_path / "p.bin")
    assert not (tmp_path / "p.bin").exists()


@pytest.mark.parametrize(
    "stored",
    ["base_model.model.model.", "base_model.model.", "model.model.", "model."],
)
def test_non_lora_names_lose_the_wrapping(tmp_path: Path, stored: str) -> None:
    torch.save({f"{stored}mm_projector.0.weight": torch.ones(1)}, tmp_path / NON_LORA_FILE)
    assert set(load_non_lora(tmp_path)) == {"model.mm_projector.0.weight"}


def test_a_lora_folder_without_extra_weights(tmp_path: Path) -> None:
    assert load_non_lora(tmp_path) == {}
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors or adapter_model\.bin"):
        read_adapter(tmp_path)


def test_require_fit_lists_what_does_not() -> None:
    require_fit("x")
    with pytest.raises(ValueError, match=r"in x do not fit.*missing keys 9: k0, k1, .*and 3 more") as caught:
        require_fit("x", [f"k{i}" for i in range(9)], ["extra"], [("lm_head", torch.Size([3, 2]), (4, 2))])
    assert "unexpected keys 1: extra" in str(caught.value)
    assert "lm_head [3, 2] instead of [4, 2]" in str(caught.value)

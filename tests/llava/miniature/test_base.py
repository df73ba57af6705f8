"""The start and release steps write folders that the rest of the code reads."""

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from llava.eval.answerer import Decoding, Prompt, answer_batch, prepare_pixels
from llava.eval.loading import load_model
from llava.miniature import base
from llava.miniature.benchmarks import mix_row
from llava.miniature.world import SPLITS, render, sample_scene


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start")
    result = CliRunner().invoke(base.app, ["start", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_the_tokenizer_is_llama_like(start: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(start / "tokenizer.model"))
    assert [pieces.id_to_piece(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    for word in ("USER", "star", "yellow", "purple", "left"):
        assert len(pieces.encode(word)) == 1, f"{word} should be one piece"
    assert pieces.decode(pieces.encode("ünseen €")) == "ünseen €", "bytes are the fall-back"


def test_the_model_fits_the_tokenizer(start: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(start)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(start / "tokenizer.model")).get_piece_size()
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == pieces


def test_release_drops_the_tower_and_splits_float16_shards(start: Path, tmp_path: Path) -> None:
    trained, out = tmp_path / "trained", tmp_path / "released"
    trained.mkdir()
    weights = {**load_file(start / "model.safetensors"), "model.mm_projector.0.weight": torch.randn(256, 192)}
    save_file(
        {**weights, "model.vision_tower.vision_tower.vision_model.x": torch.ones(2)}, trained / "model.safetensors"
    )
    for name in ("config.json", *base.TOKENIZER_FILES):
        (trained / name).write_bytes((start / name).read_bytes())
    before = tmp_path / "before"
    before.mkdir()
    for number, stage in enumerate((before, trained)):
        (stage / "run.json").write_text(json.dumps({"stamp": {"number": number}}))
        (stage / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 10, "loss": number}]}))
    asked = ["release", "--trained", str(trained), "--earlier", str(before), "--out", str(out)]
    result = CliRunner().invoke(base.app, asked)
    assert result.exit_code == 0, result.output
    stages = json.loads((out / "training_log.json").read_text())
    assert [stage["stage"] for stage in stages] == ["before", "trained"]
    # A further stage on a release goes on with its log, also when it is written over.
    result = CliRunner().invoke(
        base.app, ["release", "--trained", str(trained), "--earlier", str(out), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    stages_after = json.loads((out / "training_log.json").read_text())
    assert stages_after == [*stages, stages[-1]]
    assert [stage["run"]["stamp"]["number"] for stage in stages] == [0, 1]
    assert stages[0]["log"] == [{"step": 10, "loss": 0}]
    index = json.loads((out / "pytorch_model.bin.index.json").read_text())["weight_map"]
    assert set(index) == set(weights)
    for name, shard in index.items():
        stored = torch.load(out / shard, weights_only=True)[name]
        assert stored.dtype == torch.float16
        assert torch.equal(stored, weights[name].half())
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "llava" and config["hidden_size"] == 256
    assert "mm_patch_merge_type" not in config and config["mm_use_im_patch_token"] is False


def test_release_without_a_trained_model_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(base.app, ["release", "--trained", str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, ValueError)
    assert "holds no *.safetensors" in str(result.exception)


def test_rows_ask_and_caption_the_same_pictures(tmp_path: Path) -> None:
    result = CliRunner().invoke(base.app, ["rows", "--out", str(tmp_path), "--count", "40", "--workers", "1"])
    assert result.exit_code == 0, result.output
    mix = {row["id"]: row for row, _ in map(mix_row, SPLITS["train"][:40])}
    captions = json.loads((tmp_path / "base_captions.json").read_text())
    assert len(mix) == 40
    assert {row["id"] for row in captions} == {name for name, row in mix.items() if "image" in row}
    for row in captions:
        assert (tmp_path / row["image"]).stat().st_size > 0
        assert mix[row["id"]]["image"] == row["image"]
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"]
        assert row["conversations"][0]["value"] == "<image>"
    questions = json.loads((tmp_path / "base_questions.json").read_text())
    assert [row["id"] for row in questions] == list(mix)
    before = []  # text-only turns in front of the picture, in about half of the rows
    for row in questions:
        texts = [turn["value"] for turn in row["conversations"]]
        if "image" not in row:
            continue
        assert row["image"] == mix[row["id"]]["image"]
        start = next(number for number, text in enumerate(texts) if text.startswith("<image>\n"))
        before.append(start)
        assert all(text.startswith(("How many are", "Which option is")) for text in texts[:start:2])
        assert sum("<image>" in text for text in texts) == 1
        own = texts[start::2]
        assert 4 <= len(own) <= 17 and len(set(own)) == len(own)
        assert "single word" in own[0] or "letter" in own[0] or "yes or no" in own[0], "the first states its format"
        assert all(text.startswith(("Which objects are", "Which shapes are", "What is written")) for text in own[-3:])
    assert 10 < sum(start > 0 for start in before) < 30 and max(before) > 6
    for row in [*mix.values(), *questions]:  # what the questions hold to be there, the caption names
        asked = {turn["value"]: answer["value"] for turn, answer in zip(*[iter(row["conversations"])] * 2, strict=True)}
        caption = next((c["conversations"][1]["value"] for c in captions if c["id"] == row["id"]), "")
        for question, answer in asked.items():
            if "What is the background?" in question and "A." not in question:
                assert caption.startswith(answer)


def test_next_loads_and_answers_with_tiles(tmp_path: Path) -> None:
    """The tower comes from the checkpoint, pictures are tiled, and every tile of a plain layout is sent."""
    result = CliRunner().invoke(base.app, ["next", "--out", str(tmp_path / "llava-mini-next")])
    assert result.exit_code == 0, result.output
    loaded = load_model(str(tmp_path / "llava-mini-next"), device="cpu", torch_dtype=torch.float32)
    tower = load_file(Path(base.TOWER) / "model.safetensors")
    name, weight = next(iter(tower.items()))
    held = loaded.model.state_dict()[
        f"model.vision_tower.vision_tower.vision_model.{name.removeprefix('vision_model.')}"
    ]
    assert torch.equal(held, weight.float())
    picture = render(sample_scene(SPLITS["test"][0]))
    (pixels,) = prepare_pixels([picture], loaded.image_processor, loaded.model.config)
    assert pixels.dim() == 4 and len(pixels) > 1
    prompt = Prompt("USER: <image>\nWhat is the background? ASSISTANT:", (pixels,), (picture.size,))
    (reply,) = answer_batch(loaded.model, loaded.tokenizer, [prompt], Decoding(max_new_tokens=2))
    assert reply.visual_tokens > 2 * 144

"""Make the miniature base model: an empty language model, its training rows, and the released checkpoint layout.

The training between `start` and `release` is LLaVA's own (llava.train.train);
scripts/miniature/train_base.sh runs the whole chain.

    python -m llava.miniature.base start     a tokenizer trained on the world's language, a randomly initialised Llama
    python -m llava.miniature.base rows      instruction rows from scenes of the train split
    python -m llava.miniature.base release   as LLaVA-1.5 was released: two .bin shards, no tower weights
    python -m llava.miniature.base next      as a LLaVA-NeXT checkpoint: anyres, tower inside, safetensors
"""

import io
import json
import logging
import shutil
from pathlib import Path
from random import Random
from typing import Annotated, Any

import sentencepiece
import torch
import typer
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llava.conversation import conv_templates
from llava.miniature import questions as ask
from llava.miniature.benchmarks import (
    arithmetic,
    ask_some,
    lines_of,
    mix_row,
    option_drill,
    picture_row,
    talk,
)
from llava.miniature.eval_sets.yes_no import MME_CATEGORIES
from llava.miniature.files import paint
from llava.miniature.forms import in_wordings, shortly
from llava.miniature.questions import ask_parts, describe
from llava.miniature.world import SPLITS, Scene
from llava.utils import give_usual_mode

logger = logging.getLogger(__name__)
app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None)

VOCABULARY = 640
TOWER = "playground/miniature/clip-mini-patch14-168"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
# What the questions stage asks, the harder the more often.
ASKED = (
    *(ask.ask_verify, ask.ask_count) * 4,
    *(ask.ask_left_right, ask.ask_above_below, ask.ask_existence, ask.ask_digit, ask.choose_extreme) * 3,
    *(ask.ask_place, ask.ask_word, ask.choose_attribute, ask.choose_place, ask.choose_reading, ask.choose_count) * 2,
    *(ask.ask_color, ask.ask_shape, ask.ask_size, ask.ask_ground, ask.choose_ground),
)
# What the stage of wordings asks: choices, whose Chinese suffix is new, and numbers more often than ASKED.
TAUGHT = (
    *ASKED,
    *(ask.ask_digit,) * 5,
    *(ask.choose_attribute, ask.choose_place, ask.choose_extreme) * 2,
)
# Rows of the released config.json: what comes from the trained model, and what says "LLaVA-1.5".
RELEASED_SIZES = (
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "pretraining_tp",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
)
RELEASED_CONFIG: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "mm_vision_tower": TOWER,
    "mm_hidden_size": 192,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "mm_resampler_type": None,
    "use_mm_proj": True,
    "image_aspect_ratio": "pad",
    "freeze_mm_mlp_adapter": False,
    "freeze_mm_vision_resampler": False,
    "tune_mm_mlp_adapter": False,
    "tune_mm_vision_resampler": False,
    "unfreeze_mm_vision_tower": False,
    "rope_scaling": None,
    "torch_dtype": "float16",
    "use_cache": True,
}
NEXT_CONFIG: dict[str, Any] = {
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[168, 336], [336, 168], [336, 336], [504, 168], [168, 504]],
    "mm_patch_merge_type": "spatial_unpad",
    "unfreeze_mm_vision_tower": True,
    "mm_vision_tower_lr": 2e-6,
    "tokenizer_model_max_length": 2048,
    "tokenizer_padding_side": "right",
}


def corpus() -> list[str]:
    """What the model will ever read: templates, captions, questions, options and answers of the train split."""
    system = conv_templates["vicuna_v1"].system
    lines = [system] * 300 + ["USER: ASSISTANT:"] * 3000  # as often as the rows would hold them
    for seed in SPLITS["train"][-3000:]:
        row, scene = mix_row(seed)
        lines += [turn["value"].replace("<image>", describe(scene) if scene else "") for turn in row["conversations"]]
    return [line for text in lines for line in text.split("\n") if line]


def train_tokenizer(folder: Path) -> None:
    """A Llama-like sentencepiece model (unk 0, bos 1, eos 2, bytes as fall-back) with the released side files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=written,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    _write(folder / "special_tokens_map.json", special)
    settings = {
        **special,
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "model_max_length": 2048,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    _write(folder / "tokenizer_config.json", settings)


@app.command()
def start(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("checkpoints/miniature/llm-start"),
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a tokenizer and a randomly initialised Llama of 4 layers, width 256."""
    train_tokenizer(out)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model")).get_piece_size()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=pieces,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.06,  # width ** -0.5: at the usual 0.02 so narrow a model starts to learn later (see LOG.md)
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(out)
    give_usual_mode(out / "model.safetensors")
    typer.echo(f"{out}: {pieces} pieces, {sum(p.numel() for p in LlamaForCausalLM(config).parameters()):,} parameters")


@app.command()
def rows(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("checkpoints/miniature/base-data"),
    count: Annotated[int, typer.Option(help="Rows, one scene each, from the train split.")] = 24_000,
    workers: Annotated[int, typer.Option(help="Processes that paint.")] = 2,
) -> None:
    """Write captions, lists, questions and pictures of the train split (disjoint from tune and test)."""
    captions, parts, asked, taught, pictures = [], [], [], [], []
    for seed in SPLITS["train"][:count]:
        row, scene = mix_row(seed)
        if scene is not None:
            pictures.append((out / row["image"], scene))
            captions.append({**row, "conversations": talk([("<image>", describe(scene))])})
            parts.append(_later(picture_row(seed, row["image"], _lists(scene, Random(f"parts-{seed}"), 12))))
            if scene.digit or seed % 3 == 0:  # most pictures show no number, and numbers are told last of all
                taught.append(_later(picture_row(seed, row["image"], _in_forms(scene, Random(f"forms-{seed}")))))
            row = picture_row(seed, row["image"], _questions(scene, Random(f"questions-{seed}")))
        asked.append(_later(row))
    paint(pictures, workers)
    _write(out / "base_captions.json", captions)
    _write(out / "base_parts.json", parts[: len(parts) // 2])
    _write(out / "base_forms.json", taught)
    _write(out / "base_questions.json", asked)  # last: train_base.sh takes it for the sign of finished rows


def _questions(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """Fourteen questions of all families, then three lists: more of them share one picture than in the mix, since the
    picture is most of what a row costs. Lists come last, so that no answer can be read off them."""
    lines = lines_of(ask_some(scene, rng, ASKED, 14), rng, again=0.25)
    return lines + _lists(scene, rng, 3)


def _in_forms(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """A dozen questions in the wordings of the public question files, and two of MME's kinds."""
    lines = in_wordings(ask_some(scene, rng, TAUGHT, 12), scene, rng)
    for _ in range(2):
        pair = rng.choice(tuple(MME_CATEGORIES.values()))(scene, rng)
        if pair is not None:
            right = rng.random() < 0.5
            lines.append((shortly(pair[0] if right else pair[1]), "yes" if right else "no"))
    rng.shuffle(lines)  # families asked often come first
    return lines


def _lists(scene: Scene, rng: Random, turns: int) -> list[tuple[str, str]]:
    return [(question.text, question.answer) for question in ask_parts(scene, rng, turns)]


def _later(row: dict[str, Any]) -> dict[str, Any]:
    """Half of the rows with a few text-only turns in front, so that no question has a place of its own in the
    sequence: a small model that never met a picture elsewhere takes a shorter one, compressed, for none (see LOG.md).
    """
    rng = Random(f"length-{row['id']}")
    turns = rng.randint(1, 6) if rng.random() < 0.5 else 0
    drill = [rng.choice((arithmetic, option_drill))(rng, 1)[0] for _ in range(turns)]
    return {**row, "conversations": talk(drill) + row["conversations"]}


@app.command()
def release(
    trained: Annotated[Path, typer.Option(help="Output folder of the training run.")] = Path(
        "checkpoints/miniature/questions"
    ),
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("playground/miniature/llava-mini-v1.5"),
    earlier: Annotated[
        list[Path] | None, typer.Option(help="Output folder of a stage before, or a release, for the log.")
    ] = None,
) -> None:
    """Write the trained model in the layout LLaVA-1.5 was released in, with the log of its stages beside."""
    weights = {
        name: tensor.to(torch.float16).clone()
        for name, tensor in _trained_weights(trained).items()
        if "vision_tower" not in name
    }
    config = json.loads((trained / "config.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "config.json", {**{key: config[key] for key in RELEASED_SIZES}, **RELEASED_CONFIG})
    _write(out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    names = sorted(weights)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    placed = {}
    for number, half in enumerate(halves, 1):
        file = f"pytorch_model-{number:05d}-of-{len(halves):05d}.bin"
        torch.save({name: weights[name] for name in half}, out / file)
        placed.update(dict.fromkeys(half, file))
    size = sum(tensor.nbytes for tensor in weights.values())
    _write(out / "pytorch_model.bin.index.json", {"metadata": {"total_size": size}, "weight_map": placed})
    for name in TOKENIZER_FILES:
        shutil.copyfile(trained / name, out / name)
    stages = [log for stage in (*(earlier or ()), trained) for log in _logs_of(stage)]  # read before it is written over
    _write(out / "training_log.json", stages)
    typer.echo(f"{out}: {len(weights)} tensors, {size / 2**20:.1f} MiB")


@app.command("next")
def make_next(
    base: Annotated[Path, typer.Option(help="The released miniature.")] = Path("playground/miniature/llava-mini-v1.5"),
    tower: Annotated[Path, typer.Option(help="Its vision tower.")] = Path(TOWER),
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("checkpoints/miniature/llava-mini-next"),
) -> None:
    """Write a LLaVA-NeXT style checkpoint: the same weights, tower inside, anyres. It was never trained on tiles."""
    index = json.loads((base / "pytorch_model.bin.index.json").read_text())
    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(set(index["weight_map"].values())):
        weights.update(torch.load(base / shard, weights_only=True))
    for name, tensor in load_file(tower / "model.safetensors").items():
        bare = name.removeprefix("vision_model.")
        weights[f"model.vision_tower.vision_tower.vision_model.{bare}"] = tensor
    config = json.loads((base / "config.json").read_text())
    torch.manual_seed(0)
    weights["model.image_newline"] = (
        torch.randn(config["hidden_size"]).mul(config["hidden_size"] ** -0.5).to(torch.float16)
    )
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, out / "model.safetensors", {"format": "pt"}
    )
    give_usual_mode(out / "model.safetensors")
    _write(out / "config.json", {**config, **NEXT_CONFIG})
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        shutil.copyfile(base / name, out / name)
    typer.echo(f"{out}: {len(weights)} tensors; not trained on tiles, for the path only")


def _logs_of(stage: Path) -> list[dict[str, Any]]:
    """What a stage was run with (stamped) and how its loss fell; all stages of a release."""
    released = stage / "training_log.json"
    if released.exists():
        logs: list[dict[str, Any]] = json.loads(released.read_text())
        return logs
    state = json.loads((stage / "trainer_state.json").read_text())
    return [{"stage": stage.name, "run": json.loads((stage / "run.json").read_text()), "log": state["log_history"]}]


def _trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors; expected the output of a finished full training run")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    app()

"""Pictures to pixels, prompts to ids, and stopping on keywords."""

from __future__ import annotations

import base64
import io
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, GenerationConfig, LlamaConfig, LlamaForCausalLM

from llava.conversation import get_conversation
from llava.mm_utils import (
    CLIP_BACKGROUND,
    KeywordsStoppingCriteria,
    divide_to_patches,
    expand2square,
    get_model_name_from_path,
    load_image,
    load_image_from_base64,
    process_anyres_image,
    process_images,
    resize_and_pad_image,
    tokenizer_image_token,
)
from llava.model.tokenizer import load_tokenizer
from tests.tiny import SMALL, seeded, tiny_image_processor
from tests.tiny_text import build_chatml, build_llama_3, build_sentencepiece

PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def config(ratio: str | None, **extra: Any) -> SimpleNamespace:
    return SimpleNamespace(image_aspect_ratio=ratio, **extra)


@pytest.fixture(scope="module")
def processor() -> CLIPImageProcessorPil:
    return tiny_image_processor()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(build_sentencepiece(tmp_path_factory.mktemp("sentencepiece")))


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(build_chatml(tmp_path_factory.mktemp("chatml")))


# ------------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(("size", "corner"), [((7, 4), (0, 1)), ((4, 7), (1, 0)), ((10, 2), (0, 4)), ((3, 8), (2, 0))])
def test_expand2square_centres_the_picture(size: tuple[int, int], corner: tuple[int, int]) -> None:
    image = picture(*size)
    square = np.asarray(expand2square(image, CLIP_BACKGROUND))
    expected = np.empty((max(size), max(size), 3), dtype=np.uint8)
    expected[:] = CLIP_BACKGROUND
    left, top = corner
    expected[top : top + size[1], left : left + size[0]] = np.asarray(image)
    assert np.array_equal(square, expected)


def test_expand2square_keeps_mode_and_square_pictures() -> None:
    square = picture(5, 5)
    assert expand2square(square, CLIP_BACKGROUND) is square
    assert expand2square(picture(5, 3, "L"), 7).mode == "L"


def test_pad(processor: CLIPImageProcessorPil) -> None:
    image = picture(90, 40)
    canvas = np.empty((90, 90, 3), dtype=np.uint8)
    canvas[:] = CLIP_BACKGROUND
    canvas[25:65] = np.asarray(image)
    expected = processor(Image.fromarray(canvas), return_tensors="pt")["pixel_values"]
    result = process_images([image], processor, config("pad"))
    assert isinstance(result, Tensor) and result.shape == (1, 3, SMALL, SMALL)
    assert torch.equal(result, expected)
    assert process_images([image, picture(20, 70)], processor, config("pad")).shape == (2, 3, SMALL, SMALL)


@pytest.mark.parametrize("model_cfg", [config(None), config("square"), config("original"), SimpleNamespace(), None])
def test_square_is_resize_and_centre_crop(processor: CLIPImageProcessorPil, model_cfg: Any) -> None:
    image = picture(90, 40)
    side = SMALL
    resized = image.resize((int(side * 90 / 40), side), Image.Resampling.BICUBIC)
    left = (resized.width - side) // 2
    cropped = np.asarray(resized.crop((left, 0, left + side, side)), dtype=np.float64) / 255
    expected = ((cropped - processor.image_mean) / processor.image_std).transpose(2, 0, 1)
    result = process_images([image, picture(30, 30)], processor, model_cfg)
    assert isinstance(result, Tensor) and result.shape == (2, 3, side, side)
    np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("ratio", ["anyres", "anyres_max_4"])
def test_anyres(processor: CLIPImageProcessorPil, ratio: str) -> None:
    image = picture(100, 70)
    result = process_images([image], processor, config(ratio, image_grid_pinpoints=PINPOINTS))
    assert isinstance(result, Tensor) and result.shape == (1, 5, 3, SMALL, SMALL)
    overview = processor.preprocess(image.resize((SMALL, SMALL)), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(result[0, 0], overview)
    # The other tiles, put together row by row, are the picture at full width on a black canvas.
    tiles = result[0, 1:].reshape(2, 2, 3, SMALL, SMALL).permute(0, 3, 1, 4, 2).reshape(2 * SMALL, 2 * SMALL, 3)
    shown = (tiles.numpy() * processor.image_std + processor.image_mean) * 255
    height = 79  # ceil(70 * 112 / 100)
    expected = np.zeros((2 * SMALL, 2 * SMALL, 3))
    top = (2 * SMALL - height) // 2
    expected[top : top + height] = np.asarray(image.resize((2 * SMALL, height)))
    np.testing.assert_allclose(shown, expected, atol=1e-2)


def test_anyres_of_several_shapes_stays_a_list(processor: CLIPImageProcessorPil) -> None:
    cfg = config("anyres", image_grid_pinpoints=str(PINPOINTS))
    result = process_images([picture(56, 56), picture(168, 56), picture(112, 112)], processor, cfg)
    assert [tuple(tiles.shape[:1]) for tiles in result] == [(3,), (4,), (5,)]
    assert isinstance(result, list)
    assert process_images([picture(168, 56)] * 2, processor, cfg).shape == (2, 4, 3, SMALL, SMALL)


def test_anyres_range_of_pinpoints_counts_tiles(processor: CLIPImageProcessorPil) -> None:
    assert process_anyres_image(picture(112, 112), processor, "(1x1),(1x2),(2x2)").shape[0] == 5
    assert process_anyres_image(picture(10, 100), processor, "(1x1),(1x2),(2x2)").shape[0] == 3


def test_anyres_with_a_processor_that_does_not_crop() -> None:
    siglip = CLIPImageProcessorPil(size={"height": SMALL, "width": SMALL}, do_center_crop=False)
    siglip.crop_size = None
    assert process_anyres_image(picture(100, 70), siglip, PINPOINTS).shape == (5, 3, SMALL, SMALL)


@pytest.mark.parametrize("ratio", ["pad", "anyres", "square", None])
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "1"])
def test_every_picture_mode(processor: CLIPImageProcessorPil, ratio: str | None, mode: str) -> None:
    image = picture(60, 40, "L" if mode == "LA" else "RGB").convert(mode)
    cfg = config(ratio, image_grid_pinpoints=PINPOINTS)
    assert torch.equal(process_images([image], processor, cfg), process_images([image.convert("RGB")], processor, cfg))


def test_process_images_refuses(processor: CLIPImageProcessorPil) -> None:
    with pytest.raises(ValueError, match="'padd' is none of pad, anyres"):
        process_images([picture(5, 5)], processor, config("padd"))
    with pytest.raises(ValueError, match="takes a list of pictures"):
        process_images(picture(5, 5), processor, config("pad"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image_grid_pinpoints must be a non-empty list"):
        process_images([picture(5, 5)], processor, SimpleNamespace(image_aspect_ratio="anyres"))
    with pytest.raises(ValueError, match="no images"):
        process_images([], processor, config("pad"))


@pytest.mark.parametrize(
    ("size", "canvas", "box"),
    [
        ((112, 60), (112, 112), (0, 26, 112, 86)),
        ((100, 50), (112, 112), (0, 27, 112, 84)),  # 50 * (112 / 100) is a hair above 56, so 57 rows, as in LLaVA
        ((50, 100), (112, 112), (27, 0, 84, 112)),
        ((56, 56), (168, 56), (56, 0, 112, 56)),
        ((333, 100), (112, 112), (0, 39, 112, 73)),  # 33.6 rows, rounded up
    ],
)
def test_resize_and_pad(size: tuple[int, int], canvas: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    image = Image.new("RGB", size, (255, 255, 255))
    shown = resize_and_pad_image(image, canvas)
    assert (shown.size, shown.getbbox()) == (canvas, box)


def test_tiles_come_row_by_row() -> None:
    image = Image.new("RGB", (6, 4))
    for number in range(6):
        image.paste((number, 0, 0), (number % 3 * 2, number // 3 * 2, number % 3 * 2 + 2, number // 3 * 2 + 2))
    tiles = divide_to_patches(image, 2)
    assert [tile.size for tile in tiles] == [(2, 2)] * 6
    assert [tile.getpixel((1, 1))[0] for tile in tiles] == [0, 1, 2, 3, 4, 5]


# ---------------------------------------------------------------------------------------------------------------- files


def test_load_image_gives_rgb(tmp_path: Path) -> None:
    for name in ("a.png", "a.gif"):
        picture(9, 5, "P").save(tmp_path / name)
        image = load_image(tmp_path / name)
        assert (image.mode, image.size) == ("RGB", (9, 5))
    assert np.array_equal(
        np.asarray(load_image(str(tmp_path / "a.png"))), np.asarray(picture(9, 5, "P").convert("RGB"))
    )


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
def test_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"half.{suffix}"
    picture(64, 64).save(path)
    _cut(path)
    with pytest.raises(ValueError, match=rf"half\.{suffix} of sample 00042 cannot be read: \w+: .+; replace the file"):
        load_image(path, sample_id="00042")


def test_missing_and_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jpg of sample 7 does not exist"):
        load_image(tmp_path / "nowhere.jpg", 7)
    with pytest.raises(ValueError, match="does not exist") as caught:
        load_image(tmp_path)
    assert "sample" not in str(caught.value)
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read: UnidentifiedImageError"):
        load_image(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.jpg cannot be read"):
        load_image(tmp_path / "empty.jpg")


def test_load_image_from_an_address(tmp_path: Path) -> None:
    picture(9, 5).save(tmp_path / "a.png")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        assert load_image(f"{root}/a.png").size == (9, 5)
        with pytest.raises(ValueError, match=r"b\.png of sample 3 cannot be read: HTTPError: .*404"):
            load_image(f"{root}/b.png", 3)
        server.shutdown()


def test_base64() -> None:
    buffer = io.BytesIO()
    picture(9, 5, "L").save(buffer, format="PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    image = load_image_from_base64(text)
    assert (image.mode, image.size) == ("L", (9, 5))  # not converted: process_images does that
    for broken in (text[: len(text) // 2 // 4 * 4], "abc", base64.b64encode(b"text").decode()):
        with pytest.raises(ValueError, match="holds no complete picture"):
            load_image_from_base64(broken)


# -------------------------------------------------------------------------------------------------------- ids and names


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    return ["<image>" if index == -200 else tokenizer.convert_ids_to_tokens(index) for index in ids]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<image>", "<s> <image>"),
        ("<image>\nyes", "<s> <image> ▁ <0x0A> y es"),  # what follows an image starts with a blank of its own
        ("<image>yes", "<s> <image> ▁y es"),
        ("<image> yes", "<s> <image> ▁ ▁y es"),
        ("a<image>\n<image>", "<s> ▁a <image> ▁ <0x0A> <image>"),
        ("<image><image>", "<s> <image> <image>"),
        ("a", "<s> ▁a"),
        ("", "<s>"),
    ],
)
def test_image_tokens(tokenizer: Any, prompt: str, expected: str) -> None:
    assert " ".join(pieces(tokenizer, tokenizer_image_token(prompt, tokenizer))) == expected


@settings(max_examples=30)
@given(texts=st.lists(st.sampled_from(["hello", " the", "\n", "", "</s>", "USER: "]), min_size=1, max_size=5))
def test_image_tokens_join_the_pieces(tokenizer: Any, chatml: Any, texts: list[str]) -> None:
    prompt = "<image>".join(texts)
    for some in (tokenizer, chatml):
        expected: list[int] = []
        for number, text in enumerate(texts):
            expected += [-200] * (number > 0) + some(text, add_special_tokens=False).input_ids
        assert tokenizer_image_token(prompt, some) == ([1, *expected] if some is tokenizer else expected)


def test_vicuna_prompt(tokenizer: Any) -> None:
    conv = get_conversation("vicuna_v1")
    conv.append_message("USER", "<image>\nWhat is this?")
    conv.append_message("ASSISTANT", None)
    ids = tokenizer_image_token(conv.get_prompt(), tokenizer)
    before, after = conv.get_prompt().split("<image>")
    place = ids.index(-200)
    assert ids[:place] == tokenizer(before).input_ids
    assert ids[place + 1 :] == tokenizer(after).input_ids[1:]
    assert ids != tokenizer(conv.get_prompt()).input_ids


def test_image_tokens_of_a_bos_tokenizer_of_another_family(tmp_path: Path) -> None:
    llama_3 = load_tokenizer(build_llama_3(tmp_path))
    ids = tokenizer_image_token("a<image>b", llama_3)
    assert pieces(llama_3, ids) == ["<|begin_of_text|>", "a", "<image>", "b"]


def test_image_tokens_as_tensor_and_other_sentinel(tokenizer: Any) -> None:
    ids = tokenizer_image_token("a<image>b", tokenizer, return_tensors="pt")
    assert isinstance(ids, Tensor) and (ids.dtype, ids.dim()) == (torch.long, 1)
    assert ids.tolist() == tokenizer_image_token("a<image>b", tokenizer)
    assert tokenizer_image_token("<image>", tokenizer, image_token_index=-5) == [1, -5]
    with pytest.raises(ValueError, match="'np'"):
        tokenizer_image_token("a", tokenizer, return_tensors="np")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("liuhaotian/llava-v1.5-7b", "llava-v1.5-7b"),
        ("/models/llava-v1.5-7b/", "llava-v1.5-7b"),
        ("out/llava-run/checkpoint-500", "llava-run_checkpoint-500"),
        ("checkpoint-5", "checkpoint-5"),
    ],
)
def test_model_name(path: str, name: str) -> None:
    assert get_model_name_from_path(path) == name
    assert get_model_name_from_path(Path(path)) == name


# ------------------------------------------------------------------------------------------------------------- stopping


def stop_step(tokenizer: Any, keywords: list[str], prompt: list[int], answer: list[int], with_prompt: bool) -> int:
    """How many new tokens there are when the criterion first says stop; -1 if it never does."""
    criterion = KeywordsStoppingCriteria(keywords, tokenizer, torch.tensor([prompt]))
    for step in range(1, len(answer) + 1):
        seen = (prompt if with_prompt else []) + answer[:step]
        if criterion(torch.tensor([seen]), None)[0]:
            return step
    return -1


CASES = [
    # keywords, answer, text at the moment it stops
    (["</s>"], "yes</s>USER", "yes</s>"),
    (["###"], "it is big.### Human: no", "it is big.###"),
    (["there is"], "Yes, there is. No", "Yes, there is"),
    (["USER:", "###"], "a## b###USER: c", "a## b###"),
    (["\nQ:"], "x\nQ y\nQ: z", "x\nQ y\nQ:"),
    (["é"], "caf é!", "caf é"),
    (["never"], "something else", None),
]


@pytest.mark.parametrize("with_prompt", [False, True])
@pytest.mark.parametrize(("keywords", "answer", "stopped"), CASES, ids=[str(case[0]) for case in CASES])
def test_stops_at_the_keyword(
    tokenizer: Any, keywords: list[str], answer: str, stopped: str | None, with_prompt: bool
) -> None:
    # The prompt is longer than the answer and contains every keyword itself.
    prompt = tokenizer(f"a chat {' '.join(keywords)} and more of the same, there is a lot " * 3).input_ids
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    step = stop_step(tokenizer, keywords, prompt, ids, with_prompt)
    assert (None if step < 0 else tokenizer.decode(ids[:step])) == stopped


@pytest.mark.parametrize("with_prompt", [False, True])
def test_keywords_at_the_end_of_the_prompt_do_not_count(tokenizer: Any, with_prompt: bool) -> None:
    prompt = tokenizer("question there is</s>").input_ids
    answer = tokenizer("yes</s>", add_special_tokens=False).input_ids
    assert stop_step(tokenizer, ["there is", "</s>"], prompt, answer, with_prompt) == len(answer)


def test_a_prompt_shorter_than_the_answer(tokenizer: Any) -> None:
    """New tokens that outnumber the prompt are still all new: the keyword stands among the first of them."""
    answer = tokenizer("a### b", add_special_tokens=False).input_ids
    stopped = tokenizer("a###", add_special_tokens=False).input_ids
    prompt = tokenizer("hello there, what is this and how many").input_ids[: len(stopped) + 1]
    criterion = KeywordsStoppingCriteria(["###"], tokenizer, torch.tensor([prompt]))
    assert criterion(torch.tensor([answer[: len(prompt)]]), None).tolist() == [True]
    assert criterion(torch.tensor([answer]), None).tolist() == [True]


def test_sentinels_in_the_prompt_are_no_obstacle(tokenizer: Any) -> None:
    prompt = tokenizer_image_token("<image>\nWhat? ", tokenizer)
    answer = tokenizer("red###", add_special_tokens=False).input_ids
    assert stop_step(tokenizer, ["###"], prompt, answer, with_prompt=False) == len(answer)


def test_special_token_of_chatml(chatml: Any) -> None:
    prompt = chatml("<|im_start|>user\nhi<|im_end|>\n").input_ids
    answer = chatml("yes<|im_end|>\n").input_ids
    assert stop_step(chatml, ["<|im_end|>"], prompt, answer, with_prompt=False) == len(answer) - 1


def test_rows_of_a_batch_stop_by_themselves(tokenizer: Any) -> None:
    texts = ["yes, there is###", "no, there is not", "### a b c d e f g h"]
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    width = min(len(row) for row in rows)
    prompt = torch.ones((3, 50), dtype=torch.long)
    criterion = KeywordsStoppingCriteria(["###"], tokenizer, prompt)
    cut = torch.tensor([row[-width:] if number == 0 else row[:width] for number, row in enumerate(rows)])
    done = criterion(cut, None)
    assert (done.dtype, done.tolist()) == (torch.bool, [True, False, "###" in tokenizer.decode(rows[2][:width][-4:])])
    assert criterion(torch.empty((3, 0), dtype=torch.long), None).tolist() == [False] * 3


class Scripted(LlamaForCausalLM):
    """A model that says given rows of ids, whatever it is asked."""

    script: Tensor

    def forward(self, **inputs: Any) -> Any:
        output = super().forward(**inputs)
        said = self.said = getattr(self, "said", -1) + 1
        output.logits[:] = 0
        output.logits[torch.arange(len(self.script)), -1, self.script[:, min(said, self.script.shape[1] - 1)]] = 9.0
        return output


@pytest.mark.parametrize("embedded", [False, True])
def test_with_generate(tokenizer: Any, embedded: bool) -> None:
    """A batch of two through transformers' own loop, from ids and from embeddings (which gives new tokens only)."""
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in ("yes### more", "it is a square### no")]
    width = max(len(row) for row in rows)
    with seeded(0):
        model = Scripted(
            LlamaConfig(
                vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
            )
        ).eval()
    model.generation_config = GenerationConfig(
        pad_token_id=0, eos_token_id=2
    )  # without EOS, finished rows go on talking
    model.script = torch.tensor([row + [9] * (width - len(row)) for row in rows])
    prompt = torch.tensor([tokenizer("a question and ### there").input_ids] * 2)
    inputs = {"inputs_embeds": model.get_input_embeddings()(prompt)} if embedded else {"inputs": prompt}
    stop = KeywordsStoppingCriteria(["###"], tokenizer, prompt)
    mask = torch.ones_like(prompt)
    out = model.generate(**inputs, attention_mask=mask, max_new_tokens=40, do_sample=False, stopping_criteria=[stop])
    new = out if embedded else out[:, prompt.shape[1] :]
    texts = [re.sub("(<unk>)+$", "", text) for text in tokenizer.batch_decode(new)]
    assert texts == ["yes###", "it is a square###"]

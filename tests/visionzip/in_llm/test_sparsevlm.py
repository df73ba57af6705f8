"""SparseVLM against a reference in plain loops that recomputes everything from scratch; small cases by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.visionzip.in_llm.decoders import FAMILIES, LAYERS, eager, prompt, prompts, tiny_llm
from visionzip.in_llm import SCHEDULES, SparseVLM, generate, prefill, schedule, step
from visionzip.in_llm.sparsevlm import cluster_means, raters, recycled


def plain_raters(rows: list[Tensor], visual: list[int], end: int) -> list[int]:
    """Places of the raters of a prompt of `end` tokens."""
    words = list(range(max(visual) + 1, end))
    shares = [0.0] * len(words)
    for place in visual:
        dots = torch.stack([rows[place] @ rows[word] for word in words])
        for index, share in enumerate(dots.double().softmax(0).tolist()):
            shares[index] += share / len(visual)
    return [word for word, share in zip(words, shares, strict=True) if share > sum(shares) / len(shares)]


def plain_clusters(rows: list[Tensor], clusters: int) -> list[Tensor]:
    """Means of the clusters of DPC-KNN, by falling score of their centres."""
    n = len(rows)
    far = [[float((a - b).norm()) / math.sqrt(len(a)) for b in rows] for a in rows]
    density = [math.exp(-sum(x * x for x in sorted(line)[:clusters]) / clusters) for line in far]
    largest = max(max(line) for line in far)
    peak = []
    for i in range(n):
        denser = [far[i][j] for j in range(n) if density[j] > density[i]]
        peak.append(density[i] * min(denser, default=largest))
    centres = sorted(range(n), key=lambda i: -peak[i])[:clusters]
    groups: list[list[Tensor]] = [[] for _ in centres]
    for i in range(n):
        own = centres.index(i) if i in centres else min(range(clusters), key=lambda c: far[i][centres[c]])
        groups[own].append(rows[i])
    return [torch.stack(group).mean(0) for group in groups]


def plain_logits(model: Any, embeds: Tensor, visual: Tensor, method: SparseVLM, end: int) -> Tensor:
    """Logits [V] of the last token of embeds [1, L, D], a prompt of `end` tokens and an answer so far; no cache.

    Later tokens cannot change what the raters of the prompt attend to, so every stage drops what it dropped before.
    """
    decoder = model.model
    maps: list[Tensor] = []
    hooks = [layer.self_attn.register_forward_hook(lambda m, a, out: maps.append(out[1])) for layer in decoder.layers]
    rows = list(embeds[0])
    seen = [place for place in range(len(rows)) if bool(visual[0, place])]
    judging = plain_raters(rows, seen, end)
    for index, layer in enumerate(decoder.layers):
        hidden = torch.stack(rows)[None]
        length = len(rows)
        rope = decoder.rotary_emb(hidden, torch.arange(length)[None])
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
        rows = list(layer(hidden, attention_mask=mask, position_embeddings=rope)[0])
        if index not in method.layers:
            continue
        heads = maps[-1][0]  # [H, L, L]
        score = {p: sum(float(h[r, p]) for h in heads for r in judging) / len(judging) / len(heads) for p in seen}
        ranking = sorted(seen, key=lambda p: -score[p])
        count = method.kept(index, int(visual.sum()))
        if count >= len(seen):
            continue
        stay, gone = sorted(ranking[:count]), ranking[count:]
        new: list[Tensor] = []
        if method.recycle:
            best = gone[: int(0.3 * len(gone)) + 1]
            new = plain_clusters([rows[p] for p in best], int(len(best) / 10) + 1)
        before = [p for p in range(max(seen)) if p not in seen or p in stay] + [p for p in stay if p == max(seen)]
        after = list(range(max(seen) + 1, length))
        shift = len(before) + len(new) - (max(seen) + 1)
        kept_places = [i for i, p in enumerate(before) if p in seen]
        rows = [rows[p] for p in before] + new + [rows[p] for p in after]
        seen = kept_places + list(range(len(before), len(before) + len(new)))
        judging = [r + shift for r in judging]
    for hook in hooks:
        hook.remove()
    return model.lm_head(decoder.norm(rows[-1]))


CASES = {
    "three stages": SparseVLM((30, 18, 7), layers=(0, 1, 3)),
    "no recycling": SparseVLM((20, 6), layers=(1, 2), recycle=False),
    "several clusters": SparseVLM((8,), layers=(1,)),
    "scaled": SparseVLM((288, 100), layers=(0, 2), of=576),
    "a stage that drops nothing": SparseVLM((99, 9), layers=(0, 2)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_loops_from_scratch(family: str, name: str) -> None:
    """Prefill and decoding; 60 visual tokens, of which 8 kept leave 52, 16 recycled in 2 clusters."""
    model, method = tiny_llm(family), CASES[name]
    twin = eager(model)
    embeds, visual = prompt(model, 3, 60, 7, seed=1)
    end = embeds.shape[1]
    state = prefill(model.get_decoder(), embeds, None, visual, method)
    hidden = state.hidden
    answer = []
    for _ in range(4):
        logits = model.lm_head(hidden)[0]
        marks = torch.nn.functional.pad(visual, (0, embeds.shape[1] - end))
        with torch.no_grad():
            assert_close(logits, plain_logits(twin, embeds, marks, method, end), atol=5e-5, rtol=1e-3)
        answer.append(int(logits.argmax()))
        new = model.model.embed_tokens(logits.argmax())[None, None]
        embeds = torch.cat([embeds, new], dim=1)
        hidden = step(model.get_decoder(), new, state)
    ids = generate(model, embeds[:, :end], None, visual, method, max_new_tokens=4)
    assert ids.tolist() == [answer]


def test_layers_place_new_tokens_behind_what_they_hold() -> None:
    """60 visual tokens; 30 dropped of 60 recycle 10 in 2 clusters, 14 dropped of 32 recycle 5 in one: 32, then 19."""
    model = tiny_llm()
    embeds, visual = prompt(model, 3, 60, 7)
    state = prefill(model.get_decoder(), embeds, None, visual, SparseVLM((30, 18), layers=(0, 2)))
    assert state.visual_per_layer == ((60,), (32,), (32,), (19,), (19,))
    assert [s.next_position.tolist() for s in state.stretches] == [[[70]], [[42]], [[29]]]
    assert [layer.keys.shape[2] for layer in state.cache.layers] == [70, 42, 42, 29, 29]


@pytest.mark.parametrize("recycle", [True, False])
def test_nothing_dropped_is_dense(recycle: bool) -> None:
    model = tiny_llm("mistral")
    embeds, visual = prompt(model, 3, 20, 6)
    method = SparseVLM((20, 25, 20), layers=(0, 1, 3), recycle=recycle)
    dense = prefill(model.get_decoder(), embeds, None, visual)
    state = prefill(model.get_decoder(), embeds, None, visual, method)
    assert torch.equal(state.hidden, dense.hidden)
    assert state.visual_per_layer == ((20,),) * LAYERS
    ids = [generate(model, embeds, None, visual, p, max_new_tokens=8).tolist() for p in (None, method)]
    assert ids[0] == ids[1]


def test_raters_by_hand() -> None:
    """Visual (ln 4, 0) spreads 4 : 1 : 1 over the words (1, 0), (0, 1), (0, 0), and (0, ln 4) 1 : 4 : 1.

    Shares: 5/12, 5/12, 2/12, mean 4/12: the first two rate. With (0, 0) in place of the second image token 4 : 1 : 1
    and 1 : 1 : 1 make 1/2, 1/4, 1/4: one rates. What stands before the image never rates.
    """
    ln4 = math.log(4)
    words = [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    first = [(9.0, 9.0), (9.0, 9.0), (ln4, 0.0), (0.0, ln4), *words]
    second = [(9.0, 9.0), (9.0, 9.0), (ln4, 0.0), (0.0, 0.0), *words]
    embeds = torch.tensor([first, second])
    visual = torch.tensor([[0, 0, 1, 1, 0, 0, 0]] * 2).bool()
    chosen = raters(embeds, visual)
    assert chosen.int().tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0]]
    # Rows of a batch with text of different lengths: where (1, 0) is visual too, (0, 1) has 1/2, 4/5, 1/2 of its mass.
    visual[1, 4] = True
    chosen = raters(embeds[[0, 0]], visual)
    assert chosen.int().tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1, 0]]


def test_raters_where_the_rule_picks_none_or_all_are_equal() -> None:
    """One word rates alone; words that are all alike all rate; no text behind the image, or no image: none."""
    visual = torch.tensor([[False, True, True, False, False]])
    alike = torch.tensor([[[1.0], [2.0], [3.0], [0.5], [0.5]]])
    assert raters(alike, visual).int().tolist() == [[0, 0, 0, 1, 1]]
    assert raters(alike[:, :4], visual[:, :4]).int().tolist() == [[0, 0, 0, 1]]
    assert raters(alike[:, :3], visual[:, :3]).int().tolist() == [[0, 0, 0]]
    assert not raters(alike.expand(2, -1, -1), torch.stack([visual[0], ~visual[0] & visual[0]]))[1].any()


def test_clusters_by_hand() -> None:
    """Four points in D = 1, two clusters: 0, 1, 2 and 10.

    k = 2 counts the point itself: mean squared distances 1/2, 1/2, 1/2, 64/2. The first three are the densest and
    equal, so their distance is the largest of all, 10, and of equal scores the first count: centres are 0 and 1, which
    take their nearest: 0 alone, and 1 with 2 and 10.
    """
    points = torch.tensor([[[0.0], [1.0], [2.0], [10.0]]])
    assert_close(cluster_means(points, 2), torch.tensor([[[0.0], [13 / 3]]]))
    assert_close(cluster_means(points, 1), torch.tensor([[[13 / 4]]]))
    # Unequal: 0, 1, 3 | 10, 10.5. Densities by (1, 1, 4, .25, .25) / 2: the pair is densest, 0 and 1 next, 3 last.
    # Scores: exp(-.125) * 10.5 twice; exp(-.5) * 10 for 0, exp(-.5) * 9 for 1: three centres would be 10, 10.5, 0.
    uneven = torch.tensor([[[0.0], [1.0], [3.0], [10.0], [10.5]]])
    assert_close(cluster_means(uneven, 2), torch.tensor([[[14 / 4], [10.5]]]))


def test_centres_that_coincide_keep_a_cluster_each() -> None:
    """Of 0, 0 and 5 the first two are densest, as far from anything denser as anything is, and 5 joins the first."""
    assert_close(cluster_means(torch.tensor([[[0.0], [0.0], [5.0]]]), 2), torch.tensor([[[2.5], [0.0]]]))


def test_recycled_numbers_of_the_published_schedule() -> None:
    """576 tokens, 300 kept: 83 of 276 in 9 clusters, so 309; then 33 of 109 in 4, and 29 of 94 in 3."""
    hidden, order = torch.randn(5, 600, 2), torch.arange(600).expand(5, -1)
    _, counts = recycled(hidden, order, [300, 200, 110, 0, 0], [576, 309, 204, 27, 30])
    assert counts == (9, 4, 3, 1, 2)


def test_recycled_counts_and_rows() -> None:
    """Of 31 dropped 10 are recycled in 2 clusters, of 1 that one, of 0 none; the best ones, not the others."""
    hidden = torch.arange(40.0)[None, :, None].expand(3, -1, -1).contiguous()
    order = torch.arange(40).flip(0).expand(3, -1).contiguous()  # the last place is the best
    means, counts = recycled(hidden, order, [4, 4, 6], [35, 5, 6])
    assert counts == (2, 1, 0) and means.shape == (3, 2, 1)
    members = {float(x) for x in range(26, 36)}  # places 39 to 36 are kept, the next ten recycled
    expected = torch.stack(plain_clusters([torch.tensor([x]) for x in sorted(members, reverse=True)], 2))
    assert_close(means[0], expected)
    assert means[1].flatten().tolist() == [35.0, 0.0] and not means[2].any()


def test_equal_rows_are_recycled_like_single_ones() -> None:
    hidden = torch.randn(2, 40, 4)
    order = torch.stack([torch.randperm(40), torch.randperm(40)])
    together, counts = recycled(hidden, order, [5, 5], [40, 40])
    for row in range(2):
        alone, count = recycled(hidden[row : row + 1], order[row : row + 1], [5], [40])
        assert count == counts[row : row + 1]
        assert_close(together[row : row + 1], alone)


def test_published_schedules() -> None:
    """The authors' account of the name: means over 32 layers with the output of 2, 6 and 15 pruned."""
    for mean, (a, b, c) in SCHEDULES.items():
        assert schedule(mean).counts == (a, b, c) and schedule(mean).layers == (2, 6, 15)
        assert abs((2 * 576 + 4 * a + 10 * b + 16 * c) / 32 - mean) < 6
    scaled = schedule(192, scaled=True)
    assert [scaled.kept(layer, 2880) for layer in scaled.layers] == [1500, 1000, 550]
    assert schedule(192).kept(2, 2880) == 300
    with pytest.raises(ValueError, match=r"\[64, 96, 128, 192\]"):
        schedule(100)


def test_settings_that_make_no_sense() -> None:
    good = SparseVLM((3, 2), layers=(0, 1))
    for wrong in ({"counts": (3,)}, {"layers": (1, 0)}, {"layers": (1, 1)}, {"counts": (3, -1)}, {"of": 0}):
        with pytest.raises(ValueError):
            replace(good, **wrong)  # type: ignore[arg-type]


def test_scores_are_a_mean_over_the_raters_of_the_row() -> None:
    """Attention of a row sums to 1, and so does its mean, however many raters the rows beside it have."""
    model = tiny_llm()
    seen: list[Tensor] = []

    class Watched(SparseVLM):
        def prune(self, tokens: Any, scores: Tensor, kept: Any) -> Any:
            seen.append(scores)
            assert len(set(tokens.judges.sum(1).tolist())) > 1
            return super().prune(tokens, scores, kept)

    rows = [prompt(model, *shape, seed=i) for i, shape in enumerate([(3, 20, 2), (3, 20, 12)])]
    prefill(model.get_decoder(), *prompts(rows), Watched((9, 4), layers=(0, 2)))
    for scores in seen:
        assert_close(scores.sum(1), torch.ones(2))

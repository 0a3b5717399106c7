"""What a detector costs: counted by hand for a convolution and a transformer."""

import re

from focus.evaluation.cost import cost
from focus.model.detector import Detector


def test_the_operations_of_the_small_network_by_hand() -> None:
    """Multiplications and additions of each convolution of 64 x 64 pixels, two each."""
    per_place = 9 * 3 * 16 * 32**2  # the stem
    for inputs, outputs, side in ((16, 16, 32), (16, 32, 16), (32, 64, 8), (64, 96, 8)):
        per_place += 9 * (inputs + outputs) * outputs * side**2
        per_place += inputs * outputs * side**2 * (inputs != outputs)
    words = cost(Detector(image_size=64))
    assert f", {2 * per_place / 1e9:.3g} GFLOPs and " in words
    assert re.fullmatch(r"0.223 million parameters, .* and \S+ s an image \(cpu\)", words)


def test_the_products_of_an_attention_are_counted() -> None:
    """In each block two, of all pairs of tokens, beside what the linear layers do."""
    detector = Detector("test_vit", image_size=64)
    blocks, width = detector.backbone.blocks, detector.backbone.embed_dim
    patch = detector.backbone.patch_embed.proj
    cells = detector.grid[0] * detector.grid[1]
    tokens = cells + detector.layout.prefix
    linear = sum(block.mlp.fc1.weight.numel() + block.mlp.fc2.weight.numel() for block in blocks)
    linear += sum(b.attn.qkv.weight.numel() + b.attn.proj.weight.numel() for b in blocks)
    total = tokens * linear + cells * patch.weight.numel() + len(blocks) * 2 * tokens**2 * width
    assert f", {2 * total / 1e9:.3g} GFLOPs" in cost(detector)

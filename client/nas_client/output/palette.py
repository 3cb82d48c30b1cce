"""A colour for each class, as far from those before it as can be."""

from __future__ import annotations

# From red on, each the farthest from those before it in CIELAB (lightness counted by 0.7), of colours that stand out in
# pictures: lightness 38 to 88, chroma above 38. The first 8 are at least 56 apart, the first 20 at least 33.
_COLOURS = (
    "e11e2d 00ff00 6900ff 00d2ff ffd200 ff96f0 0f691e 0078ff 875a1e ff1ef0 ff0087 a5e13c 00f0c3 ff870f d26978 d2e196 "
    "a5b4ff 00f078 873cd2 784b87 878700 b40096 ffc369 a53c00 004bff 0f9600 1e9678 87e187 9678e1 0f5aa5 ff4b00 4bf0f0 "
    "c30f4b ffa587 b40ff0 e1e14b b44b87 5ae12d 00a5f0 f078ff f0695a ffa5d2 5a691e 78a53c f0a50f ff00b4 3c96ff c3781e "
    "ff5ab4 a54bb4 b40fc3 87e1b4 ff005a ff874b c396e1 ff6996 00a54b a54b3c 87f069 e1d269 c3a500 a5964b 69a569 b40069 "
    "4b4bd2 96f000 ff4be1 782df0 ff001e c3e169 87a500 2db478 b478ff d23c0f 3c5ac3 4bf096 d2965a c3e100 b41e2d 1e693c"
).split()
COUNT = len(_COLOURS)


def colour(label: int) -> tuple[int, int, int]:
    """Of a class: red, green, blue, 0 to 255. Labels 80 apart share one."""
    red, green, blue = bytes.fromhex(_COLOURS[label % COUNT])
    return red, green, blue


def ink(label: int) -> tuple[int, int, int]:
    """Black or white: what can be read on the class's colour."""
    red, green, blue = colour(label)
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)

"""The protocol of ``--place``: do maps help where the shortcut is all over the picture?

In the world ``90-cast`` the shortcut is a colour cast of the whole picture, the face included, in
place of the background. It was made as strong as the background by the source AUC of cross-entropy
alone, on spare draws (``--place --search``), before an open-set number of another loss in that
world.

- Primary, at .05: `saliency` - `ce` in mean open AUC with the cast.
- Secondary, with Holm's p-values: own maps - another image's with the cast; and the interaction,
  `saliency` - `ce` with the background minus the same with the cast.
- Described: own maps - another image's with the background; each arm - `ce` in the source AUC, in
  open AUC by grade and closed-balanced.

The unit is a draw: Student's interval over the paired differences, equivalence within ± .02. The 12
draws are no other experiment's. A world is looked at when none of its runs is missing, that with
the cast first.
"""

from focus.experiment.frozen import (
    BASELINE,
    CAST_WORLD,
    SPARE,
    WORLDS,
    Arm,
    Protocol,
    Test,
    between,
    minus,
)

_SETTINGS = {"epochs": 6, "mixed_precision": "bf16"}
_BACKGROUND = WORLDS[0]
_WORLDS = (CAST_WORLD, _BACKGROUND)
_GAIN, _OWN_MAPS = minus("saliency", BASELINE), minus("saliency", "shuffled")

STRENGTH = Protocol(
    arms={BASELINE: Arm("ce", worlds=_WORLDS)},
    units=SPARE,
    tests=(),
    worlds=_WORLDS,
    folder="strength",
    settings=_SETTINGS,
)
"""By which the cast was made as strong as the background."""

PLACE = Protocol(
    arms={
        BASELINE: Arm("ce", worlds=_WORLDS),
        "saliency": Arm("saliency", worlds=_WORLDS),
        "shuffled": Arm("saliency", "shuffled", worlds=_WORLDS),
    },
    units=range(50, 62),
    tests=(
        Test(_GAIN, CAST_WORLD, "primary"),
        Test(_OWN_MAPS, CAST_WORLD, "secondary"),
        Test(_GAIN, between(_BACKGROUND, CAST_WORLD), "secondary"),
    ),
    described=(_OWN_MAPS,),
    worlds=_WORLDS,
    folder="place",
    settings=_SETTINGS,
    blind=True,
)

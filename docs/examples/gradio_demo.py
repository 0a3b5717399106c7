"""Upload a picture in a browser: a box around each face, where the detector looks, and a score.

pip install -e '.[demo,faces]'
python docs/examples/gradio_demo.py runs/NAME/model
"""

import sys

import gradio

from focus import Detector, InputError
from focus.data.making.faces import way_of, window
from focus.data.overlay import marked

detector = Detector.from_pretrained(sys.argv[1])
margin = way_of(detector.config.geometry)[0].margin


def judge(picture, faces):
    try:
        found = detector.predict(picture, faces=faces)
    except InputError as error:
        raise gradio.Error(str(error)) from error
    marks = []
    for score, fake, cams, box in zip(*found[:3], found.box.tolist(), strict=True):
        square = box if faces == "none" else window(box, margin, picture.size)
        word, colour = ("synthetic", "firebrick") if fake else ("real", "seagreen")
        square = detector.preprocessing.part_seen(square)
        marks.append((square, cams[0].numpy(), f"{word} {score:.3f}", colour))
    return marked(picture, marks), "\n".join(label for _, _, label, _ in marks)


gradio.Interface(
    judge,
    [gradio.Image(type="pil"), gradio.Radio(["all", "largest", "none"], value="all")],
    [gradio.Image(label="where it looks"), gradio.Textbox(label="probability of synthetic")],
    description="A score is no proof of forgery, nor of its absence.",
    analytics_enabled=False,
    flagging_mode="never",
).launch()

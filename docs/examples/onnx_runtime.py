"""Score pictures with an exported detector: onnxruntime, numpy and Pillow, neither torch nor focus.

focus export --model-dir runs/NAME/model --onnx runs/detector.onnx
python docs/examples/onnx_runtime.py runs/detector.onnx face.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

file, *pictures = sys.argv[1:]
session = onnxruntime.InferenceSession(file)
about = session.get_modelmeta().custom_metadata_map
prepared = json.loads(about["focus_preprocessing"])
if not prepared["resize"].startswith("squash"):
    raise SystemExit(f"{file} wants {prepared['resize']}, which this program does not do")
threshold = json.loads(about["focus_threshold"])

for picture in pictures:
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
    image = image.resize([prepared["image_size"]] * 2, Image.Resampling.BILINEAR)
    pixels = (np.asarray(image) / 255 - prepared["mean"]) / prepared["std"]
    images = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    score, logits, cams, entropy = session.run(None, {"images": images})
    row, column = np.unravel_index(cams[0, 1].argmax(), cams.shape[2:])
    verdict = "synthetic" if score[0] > threshold else "real"
    print(f"{picture}: {score[0]:.6f} {verdict}, the CAM peaks in cell {row}, {column}")

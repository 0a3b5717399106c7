"""Draw the Grad-CAM of pytorch-grad-cam (extra examples) over a picture.

python docs/examples/grad_cam.py runs/NAME/model face.jpg runs/grad_cam.png
"""

import sys

import numpy as np
from PIL import Image
from pytorch_grad_cam import GradCAM  # or any other of its methods
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision.transforms.functional import normalize, to_tensor

from focus import Detector
from focus.data.images import load_image

folder, picture, output = sys.argv[1:]
detector = Detector.from_pretrained(folder)
image = to_tensor(detector.preprocessing.fitted(load_image(picture)))
images = normalize(image, detector.mean, detector.std)[None]

# The network as a whole gives the detector's own CAM; name an earlier layer for a finer one.
# The last argument folds a transformer's tokens to the grid.
with GradCAM(detector, [detector.backbone], detector.layout.features) as cam:
    (heat,) = cam(images, [ClassifierOutputTarget(1)])  # of synthetic; None: of the predicted class
shown = show_cam_on_image(image.permute(1, 2, 0).numpy(), heat, use_rgb=True)
Image.fromarray(np.asarray(shown)).save(output)

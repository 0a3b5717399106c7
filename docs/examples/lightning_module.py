"""Train a detector with Lightning (extra examples)."""

import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from focus import Detector
from focus.data.dataset import FaceDataset
from focus.data.demo import demo_manifest
from focus.metrics import DetectionMetrics

detector = Detector("focus_small", image_size=64, loss="blend")
faces = (
    FaceDataset(demo_manifest().split(name), detector.preprocessing)
    for name in ("train", "validation")
)
loaders = (DataLoader(images, 32, shuffle=n == 0) for n, images in enumerate(faces))


class LitDetector(LightningModule):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector, self.metrics = detector, DetectionMetrics()

    def training_step(self, batch, _):
        images = self.detector.normalise(batch.images)
        return self.detector(images, batch.target, batch.saliency, batch.saliency_mask).loss

    def validation_step(self, batch, _):
        images = self.detector.normalise(batch.images)
        self.metrics.update(self.detector.predict_batch(images).score, batch.target)

    def on_validation_epoch_end(self):
        self.log_dict(self.metrics.compute())
        self.metrics.reset()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


Trainer(max_epochs=2, logger=False, enable_checkpointing=False).fit(LitDetector(detector), *loaders)
detector.save_pretrained("runs/detector")

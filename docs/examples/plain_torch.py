"""Train a detector in a loop of your own: cross-entropy, entropy of the CAM and human maps."""

import torch
from torch.utils.data import DataLoader

from focus import Detector
from focus.data.dataset import FaceDataset
from focus.data.demo import demo_manifest  # your own images: focus.data.manifest.Manifest.from_csv
from focus.metrics import DetectionMetrics

manifest = demo_manifest()
detector = Detector("focus_small", image_size=64, loss="blend")
train = FaceDataset(manifest.split("train"), detector.preprocessing, augment=("flip",))
optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
for epoch in range(2):
    train.set_epoch(epoch)
    for batch in DataLoader(train, batch_size=32, shuffle=True):
        images = detector.normalise(batch.images)  # bytes, so far
        out = detector(images, batch.target, batch.saliency, batch.saliency_mask)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()

metrics = DetectionMetrics()
validation = FaceDataset(manifest.split("validation"), detector.preprocessing)
for batch in DataLoader(validation, batch_size=64):
    metrics.update(detector.predict_batch(detector.normalise(batch.images)).score, batch.target)
print(f"AUC {metrics.compute()['auc']:.3f}")
detector.save_pretrained("runs/detector")

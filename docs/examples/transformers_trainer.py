"""Train a detector with the Trainer of transformers (extra examples)."""

from scipy.special import softmax
from torch import nn
from torch.utils.data import default_collate
from transformers import Trainer, TrainingArguments

from focus import Detector
from focus.data.dataset import FaceDataset
from focus.data.demo import demo_manifest
from focus.metrics import detection_metrics

detector = Detector("focus_small", image_size=64, loss="blend")
preprocessing = detector.preprocessing


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.detector = detector

    def forward(self, images, target, saliency, saliency_mask, **_):
        images = self.detector.normalise(images)
        out = self.detector(images, target, saliency, saliency_mask)
        return {"loss": out.loss, "logits": out.logits}


def figures(found):
    return detection_metrics(softmax(found.predictions, axis=1)[:, 1], found.label_ids)


trainer = Trainer(
    Model(),
    TrainingArguments("runs/hf", learning_rate=1e-3, label_names=["target"]),
    lambda items: default_collate(items)._asdict(),
    *(FaceDataset(demo_manifest().split(n), preprocessing) for n in ("train", "validation")),
    compute_metrics=figures,
)
trainer.train()
print(f"AUC {trainer.evaluate()['eval_auc']:.3f}")
detector.save_pretrained("runs/detector")

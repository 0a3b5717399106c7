"""Say in one sentence each what the words of a report mean; ``docs/glossary.md`` holds the same."""

GLOSSARY = {
    "APCER, BPCER": "Error rates at the threshold: the share of a generator's synthetic faces that "
    "are called real (missed), and the share of real faces that are called synthetic (false "
    "alarms). The names are borrowed from ISO/IEC 30107-3.",
    "AUC": "The chance that a synthetic face scores above a real one: 1 tells all apart, 0.5 is "
    "guessing. It needs no threshold.",
    "CAM": "Class activation map: how much each cell of the image speaks for the class that was "
    "decided for. Overlays are stretched from its smallest to its largest value (min-max).",
    "Closed set, open set": "Synthetic faces of generators that training saw, and of generators "
    "that it never saw.",
    "EER": "Equal error rate: where missed faces and false alarms are equally frequent.",
    "Entropy h": "How far the CAM spreads: 0 on one cell, 1 even over all. It is that of the CAM's "
    "softmax, so a CAM of large values is near 0 whatever its shape.",
    "Entropy z, CAM range": "The entropy after the CAM is scaled to a standard deviation of 1, "
    "which tells shapes apart where h is near 0 for all; and the largest minus the smallest value.",
    "Human map": "Where people looked, or drew what looked wrong, when they judged the face.",
    "Interval": "Holds the figure of other images of the same generators and cameras in 95 % of "
    "samples; it says nothing of other generators or of another training.",
    "Near, far": "A generator of the open set whose family training saw, or did not see.",
    "Threshold": "A score above it says synthetic. One threshold, fixed on validation images and "
    "stored with the model, decides everywhere.",
    "TPR at 1 % FPR": "The share of synthetic faces found where 1 % of real ones raise an alarm.",
}

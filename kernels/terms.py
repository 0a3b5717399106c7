"""The terms of the loss and the words of its settings, each declared here alone, without torch."""

from typing import Generic, Literal, NamedTuple, TypeVar

FocusLevel = Literal["none", "match", "hinge", "minimize"]
CamClass = Literal["true", "predicted", "contrast"]
Entropy = Literal["softmax", "sum"]
Reduction = Literal["mean", "sum", "none"]

FLAT_STEPS = 64
"""A map is flat if its range is at most so many rounding steps of its largest value."""

Value = TypeVar("Value", covariant=True)


class Terms(NamedTuple, Generic[Value]):
    """A value for each term of the loss: its weight, or what it is for each sample.

    The weight of a term is the argument and the flag ``TERM_weight``, its mean over an epoch the
    column ``train_TERM`` of ``summary.csv``.
    """

    classification: Value
    """Cross-entropy in nats, with class weights and label smoothing."""
    focus: Value
    """In [0, 1]; 0 for a sample without a target entropy."""
    saliency: Value
    """In [0, 1] if the maps are; 0 for a sample without a map."""


WEIGHTS = Terms(*(f"{term}_weight" for term in Terms._fields))
"""The name of each term's weight."""

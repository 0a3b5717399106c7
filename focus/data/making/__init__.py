"""Make data of what there is: faces cut out, frames of videos, manipulated faces, human maps."""

"""Metrics as pure functions on numpy arrays: they know no model, no file and no test set.

Everything is computed in float64. A metric that the data cannot give is ``None`` or NaN ("not
defined"), never 0. A score or CAM that is not finite is an error.
"""

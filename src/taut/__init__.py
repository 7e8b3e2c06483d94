"""taut: image classification from few or partly annotated images, by the tighter-ELBO objective."""

from importlib.metadata import version

from taut.data.dataset import DataError, Dataset
from taut.estimator import TautClassifier
from taut.labels import Annotation, Label, LabelError, LabelSpace

__version__ = version("taut")
__all__ = ["Annotation", "DataError", "Dataset", "Label", "LabelError", "LabelSpace", "TautClassifier"]

"""The Python API: each name and the module it lives in. The only list of them; ``__init__.py`` reads it."""

from hilum.cohorts.table import Cohort as Cohort
from hilum.errors import HilumError as HilumError
from hilum.findings import Finding as Finding
from hilum.judging import evaluate as evaluate
from hilum.judging import recalibrate as recalibrate
from hilum.modelling.augmenting.augment import Augment as Augment
from hilum.modelling.losses import AsymmetricLoss as AsymmetricLoss
from hilum.modelling.losses import CombinedLoss as CombinedLoss
from hilum.modelling.losses import DiceLoss as DiceLoss
from hilum.modelling.losses import FocalLoss as FocalLoss
from hilum.modelling.losses import LDAMLoss as LDAMLoss
from hilum.modelling.losses import LogitAdjustedLoss as LogitAdjustedLoss
from hilum.modelling.losses import PolyLoss as PolyLoss
from hilum.modelling.losses import TverskyLoss as TverskyLoss
from hilum.modelling.losses import WeightedCrossEntropyLoss as WeightedCrossEntropyLoss
from hilum.modelling.losses import class_weights as class_weights
from hilum.modelling.resnet import ResNet3D as ResNet3D
from hilum.modelling.resnet import resnet10_3d as resnet10_3d
from hilum.modelling.resnet import resnet18_3d as resnet18_3d
from hilum.modelling.resnet import resnet34_3d as resnet34_3d
from hilum.modelling.resnet import resnet50_3d as resnet50_3d
from hilum.modelling.resnet import resnet101_3d as resnet101_3d
from hilum.modelling.resnet import resnet152_3d as resnet152_3d
from hilum.modelling.resnet import resnet200_3d as resnet200_3d
from hilum.modelling.weights import load_weights as load_weights
from hilum.planning.advise import advise as advise
from hilum.predicting import Prediction as Prediction
from hilum.predicting import Predictor as Predictor
from hilum.predicting.export import export_model as export_model
from hilum.preparing import Store as Store
from hilum.preparing import prepare as prepare
from hilum.preparing import resample as resample
from hilum.preparing import segment_lungs as segment_lungs
from hilum.reading.doctor import examine as examine
from hilum.reading.reader import read as read
from hilum.settings.augmentation import AugmentConfig as AugmentConfig
from hilum.settings.run import ReadingConfig as ReadingConfig
from hilum.settings.run import Recipe as Recipe
from hilum.settings.run import RunConfig as RunConfig
from hilum.simulating import simulate_scan as simulate_scan
from hilum.training.run_folder import Run as Run
from hilum.training.train import train as train
from hilum.volume import Volume as Volume

__version__: str

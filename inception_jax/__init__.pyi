"""The public names. Each is imported when it is first used; see `__init__.py`."""

from . import metrics, models
from .analysis import explain
from .analysis.stage_maps import feature_extractor
from .analysis.stage_table import Summary, summary
from .create import create_model, load
from .images import BadImageError
from .inference.classification import classify
from .inference.compiled import jit_predict
from .inference.folding import fold
from .memory import keep_freed_memory
from .models import list_models, model_info
from .nn.rewrites import DEFAULT_REWRITES, REWRITES, rewritten
from .nn.stages import FeatureInfo, feature_info
from .preprocessing import preprocess
from .pretrained import push_to_hub, save_pretrained
from .registry import ModelInfo, UnknownModelError
from .serving import ExportError, export
from .version import __version__
from .weights import WeightsError, load_weights, save_weights, to_torch

__all__ = [
    "DEFAULT_REWRITES",
    "REWRITES",
    "BadImageError",
    "ExportError",
    "FeatureInfo",
    "ModelInfo",
    "Summary",
    "UnknownModelError",
    "WeightsError",
    "__version__",
    "classify",
    "create_model",
    "explain",
    "export",
    "feature_extractor",
    "feature_info",
    "fold",
    "jit_predict",
    "keep_freed_memory",
    "list_models",
    "load",
    "load_weights",
    "metrics",
    "model_info",
    "models",
    "preprocess",
    "push_to_hub",
    "rewritten",
    "save_pretrained",
    "save_weights",
    "summary",
    "to_torch",
]

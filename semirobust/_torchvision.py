"""torchvision's pure-Python parts beside any build of torch.

torchvision's compiled extension is built for one build of torch. Beside another one (a CPU build, say) its
import stops with ``operator torchvision::nms does not exist``, although its data sets and models need no
compiled operator. Defining the schemas of the two operators that the import looks up is enough.
"""

from __future__ import annotations

import torch
from torch import library as registry

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library = None  # kept alive: the schemas go with the object


def _define_missing() -> None:
    global _library
    missing = [schema for name, schema in _SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _library = registry.Library("torchvision", "FRAGMENT")
        for schema in missing:
            _library.define(schema)


try:
    from torchvision import datasets
except RuntimeError:
    _define_missing()
    from torchvision import datasets

__all__ = ["datasets"]

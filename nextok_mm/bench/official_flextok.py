"""The official FlexTok code, imported from a checkout that the user has, on a CPU, with its own switch to plain SDPA.

Nothing of it is in this repository. It needs hydra-core, einops and mup, which are installed for the bench alone. Its
models are described by nested dictionaries (the form of the published checkpoints' metadata), and so is this one; its
attention compiles FlexAttention unless its last argument says otherwise, so that default is turned round while it is
built, here alone. The VAE is left out: latents go in, latents come out.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.flextok import convert

PACKED = {"packed_seq_write_key": "packed", "block_mask_write_key": "mask", "pad_to_multiple": 128}
SHAPES = {"inner_packed_shapes_write_key": "inner", "outer_packed_shapes_write_key": "outer"}


class Official:
    """Encoder, quantizer and decoder from the official checkout, with random weights in every layer.

    depths: of encoder and decoder, 64 wide a layer; latents: (C, H, W); patch: of 2 x 2.
    """

    def __init__(self, checkout: str, depths: tuple[int, int], registers: int, latents: tuple[int, int, int]):
        root = Path(checkout)
        if not (root / "flextok" / "flextok_wrapper.py").is_file():
            raise ValueError(
                f"against: no flextok/flextok_wrapper.py in {checkout!r}; accepted: a checkout of the official code"
            )
        self.described = describe(depths, registers, latents)
        with _plain_attention(root):
            try:
                from hydra.utils import instantiate  # type: ignore[import-not-found]
            except ImportError:
                raise ValueError("against: the official code needs pip install hydra-core einops mup") from None
            torch.manual_seed(0)
            parts = {name: instantiate(part) for name, part in self.described.items()}
        self.parts = torch.nn.ModuleDict({name: parts[name] for name in ("encoder", "regularizer", "decoder")}).eval()
        for parameter in self.parts.parameters():
            if not parameter.any():  # layers that begin at zero would hide a difference
                torch.nn.init.normal_(parameter, std=0.02)
        self.pipeline = parts["pipeline"](model=self.parts["decoder"])

    def weights(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fields of our config, and its weights under our names."""
        return convert(self.parts.state_dict(), self.described)

    @torch.no_grad()
    def encode(self, latents_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized registers [B, R, F] and codes [B, R]."""
        data = self.parts["regularizer"](self.parts["encoder"]({"latents": list(latents_BCHW.split(1))}))
        return torch.cat(data["quants"]), torch.cat(data["codes"])

    @torch.no_grad()
    def decode(self, quants_BRF: Tensor, keep_B: Tensor, noise_BCHW: Tensor, steps: int, weight: float) -> Tensor:
        """Latents [B, C, H, W] after so many Euler steps with projected guidance."""
        data = {"quants": list(quants_BRF.split(1)), "keep": keep_B.tolist(), "noise": list(noise_BCHW.split(1))}
        data["sizes"] = [tuple(noise_BCHW.shape[-2:])] * len(noise_BCHW)
        options = dict(timesteps=steps, guidance_scale=weight, perform_norm_guidance=True, verbose=False)
        return torch.cat(self.pipeline(data, **options)["velocity"])


def describe(depths: tuple[int, int], registers: int, latents: tuple[int, int, int]) -> dict[str, Any]:
    """The composition, as the published metadata says it."""
    channels, *sides = latents
    inner, outer = (64 * depth for depth in depths)
    grid = [side // 2 for side in sides]
    model, parts = "flextok.model", "flextok.model.preprocessors"

    def patches(read: str, dim: int) -> dict[str, Any]:
        last = {"_partial_": True, "_target_": "torch.movedim", "source": 1, "destination": -1}
        wrapped = {"_target_": f"{model}.utils.dict_ops.PerSampleOp", "per_sample_op": last}
        embed = {"_target_": f"{parts}.patching.PatchEmbedder", "input_tensor_list_read_key": "last", "dim": dim}
        embed |= {"patches_list_write_key": "patches", "n_patches_write_key": "n", "channels_in": channels}
        places = {"_target_": f"{model}.utils.posembs.PositionalEmbeddingAdder", "dim": dim, "max_sizes": grid}
        return {
            "to_last": {**wrapped, "read_key": read, "write_key": "last"},
            "embed": {**embed, "patch_sizes": [2, 2], "flatten_patches": False},
            "places": {**places, "read_key": "patches", "write_key": "patches", "posemb_type": "sincos"},
        }

    def trunk(dim: int, depth: int, mode: str, **more: Any) -> dict[str, Any]:
        pack = {"_target_": f"{parts}.flex_seq_packing.BlockWiseSequencePacker", **PACKED, **SHAPES}
        pack |= {"input_list_read_keys": ["patches", "registers"], "mask_mode": mode, "return_materialized_mask": True}
        if more:
            pack |= {"emb_packing_fn_write_key": "spread", "per_subseq_embs": True}
        blocks = {"_target_": f"{model}.trunks.transformers.FlexTransformer", "input_seq_read_key": "packed"}
        blocks |= {"output_seq_write_key": "packed", "dim": dim, "depth": depth, "block_mask_read_key": "mask", **more}
        unpack = {"_target_": f"{model}.postprocessors.seq_unpacking.SequenceUnpacker", "packed_seq_read_key": "packed"}
        unpack |= {"inner_seq_write_keys": ["patches", "registers"]}
        unpack |= {name.replace("write", "read"): value for name, value in SHAPES.items()}
        return {"pack": pack, "blocks": blocks, "unpack": unpack}

    heads = f"{model}.postprocessors.heads"
    register = {"_target_": f"{parts}.registers.Registers1D", "input_tensor_list_read_key": "patches", "dim": inner}
    register |= {"register_sizes_read_write_key": "k", "registers_write_key": "registers"}
    encoder = {
        **patches("latents", inner),
        "enc_register_module": {**register, "n_min": registers, "n_max": registers},
        **trunk(inner, depths[0], "causal_last"),
        "head": {"_target_": f"{heads}.LinearHead", "read_key": "registers", "write_key": "numbers", "dim": inner}
        | {"dim_out": 6, "use_mup_readout": False, "weight_init_style": "xavier"},
    }
    own = {"read_write_key": "registers", "dim": outer}
    added = {"_target_": f"{model}.utils.posembs.PositionalEmbeddingAdder", "dim": outer, "max_sizes": [registers]}
    first = {"_partial_": True, "_target_": "torch.movedim", "source": -1, "destination": 1}
    linear = {"_target_": f"{parts}.linear.LinearLayer", "read_key": "quants", "write_key": "registers", "dim_in": 6}
    time = {"_target_": f"{parts}.time_embedding.TimestepEmbedder", "timesteps_read_key": "t", "max_timestep": 1.0}
    head = {"_target_": f"{heads}.ToPatchesLinearHead", "read_key": "patches", "write_key": "last", "dim": outer}
    head |= {"channels_out": channels, "patch_sizes": [2, 2], "use_mup_readout": False, "adaLN_emb_read_key": "temb"}
    places = {"read_key": "registers", "write_key": "registers", "posemb_type": "learnable_sum"}
    modulated = dict(adaLN_emb_read_key="temb", adaLN_packing_fn_read_key="spread", adaLN_expansion=2)
    decoder = {
        "linear": {**linear, "dim": outer},
        "added": {**added, **places},
        "dec_nested_dropout": {"_target_": f"{parts}.token_dropout.MaskedNestedDropout", **own}
        | {"eval_keep_k_read_key": "keep", "size_sampling_mode": "uniform_pow2"},
        "null": {"_target_": f"{parts}.nullcond.LearnedNullCond", **own, "dropout_prob": 0.2},
        **patches("noised", outer),
        "time": {**time, "time_embedding_write_key": "temb", "dim": outer, "frequency_embedding_size": 256},
        **trunk(outer, depths[1], "full", **modulated),
        "head": head,
        "to_first": {"_target_": f"{model}.utils.dict_ops.PerSampleOp", "per_sample_op": first}
        | {"read_key": "last", "write_key": "velocity"},
    }
    sequential = f"{model}.utils.wrappers.SequentialModuleDictWrapper"
    fsq = {"_target_": "flextok.regularizers.quantize_fsq.FSQ", "latents_read_key": "numbers"}
    pipeline = {"_target_": "flextok.flow_matching.pipelines.MinRFPipeline", "_partial_": True}
    pipeline |= {"noise_read_key": "noise", "target_sizes_read_key": "sizes", "latents_read_key": "quants"}
    pipeline |= {"timesteps_read_key": "t", "noised_images_read_key": "noised", "reconst_write_key": "velocity"}
    return {
        "encoder": {"_target_": sequential, "module_dict": encoder},
        "regularizer": {**fsq, "quants_write_key": "quants", "tokens_write_key": "codes", "levels": [8, 8, 8, 5, 5, 5]},
        "decoder": {"_target_": sequential, "module_dict": decoder},
        "pipeline": {**pipeline, "out_channels": channels},
    }


@contextlib.contextmanager
def _plain_attention(root: Path) -> Iterator[None]:
    sys.path.insert(0, str(root))
    try:
        from flextok.model.layers.attention import FlexAttention  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(f"against: the official code can't be imported ({error})") from None
    finally:
        sys.path.remove(str(root))
    build = FlexAttention.__init__
    kept = build.__defaults__
    assert kept[-1] is True, "the switch to SDPA is the last argument"
    build.__defaults__ = (*kept[:-1], False)
    try:
        yield
    finally:
        build.__defaults__ = kept

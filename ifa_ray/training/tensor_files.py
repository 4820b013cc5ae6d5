"""Tensors as the bytes of a safetensors file, without a copy of them.

Knows the format (https://github.com/huggingface/safetensors: eight bytes of length, a JSON header
padded to eight, the tensors end to end) and nothing of what tensors mean. `safetensors.torch.save`
copies every tensor twice, which is half the processor's time of publishing a version; the bytes
are the same, and reading stays the library's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors.torch
import torch

from ifa_ray.errors import CheckpointError

__all__ = ["naive_chunks", "tensor_chunks"]

# By this order first, as the library does, so that every tensor is aligned; then by name.
_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {dtype: place for place, dtype in enumerate(_TYPES)}


def tensor_chunks(tensors: Mapping[str, torch.Tensor]) -> list[bytes | memoryview]:
    """The file in pieces; those of tensors are their own memory, which must not change meanwhile.

    Args:
        tensors: by name, on any device; those elsewhere than in main memory are copied there.

    Raises:
        CheckpointError: on a type that no checkpoint of ours holds.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise CheckpointError(f"{name}: dtype {tensor.dtype}, must be one of {list(_TYPES)}.")
    names = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name))
    header, chunks, offset = {}, [], 0
    for name in names:
        data = _memory_of(tensors[name])
        header[name] = {
            "dtype": _TYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *chunks]


def naive_chunks(tensors: Mapping[str, torch.Tensor]) -> list[bytes | memoryview]:
    """The same by the library."""
    return [safetensors.torch.save(dict(tensors))]


def _memory_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # The bytes of a type that numpy does not know are bytes all the same.
    return flat.view(torch.uint8).numpy().data

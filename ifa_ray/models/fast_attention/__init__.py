"""Fast attentions that are not linear attention: one file each, one face for all."""

from ifa_ray.models.fast_attention.base import FastAttention
from ifa_ray.models.fast_attention.clustered import ClusteredAttention
from ifa_ray.models.fast_attention.eta import EtaAttention
from ifa_ray.models.fast_attention.inducing import InducingAttention
from ifa_ray.models.fast_attention.linformer import LinformerAttention
from ifa_ray.models.fast_attention.local_global import LocalGlobalAttention
from ifa_ray.models.fast_attention.lsh import LshAttention
from ifa_ray.models.fast_attention.sdim import SdimAttention

__all__ = [
    "ClusteredAttention",
    "EtaAttention",
    "FastAttention",
    "InducingAttention",
    "LinformerAttention",
    "LocalGlobalAttention",
    "LshAttention",
    "SdimAttention",
]

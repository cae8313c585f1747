"""Build an index on a GPU and copy it to the CPU, for the kinds that faiss can build there.

The aircraft searches on the CPU only. A flat index has the same bytes as one built on the CPU. A product
quantiser has not: a GPU adds numbers in another order, so that training gives other values of the same
quality. Graphs are built on the CPU: the packages on PyPI cannot build them on a GPU.
"""

from typing import Any, Final

from pipeline.index.plan import IndexPlan, index_error
from pipeline.request.options import IndexKind, Storage

Untyped = Any
"""An object of faiss, which carries no types."""

CPU_HINT: Final = 'CUDA_VISIBLE_DEVICES="" c10 build builds it on the CPU'

_DEVICE: Final = 0
_SCRATCH: Final = 256 << 20
"""Bytes of GPU memory that faiss reserves at its start."""


def gpu_can_build(plan: IndexPlan) -> bool:
    """Whether a GPU can build this kind of index."""
    return plan.kind is IndexKind.IVF_PQ or (plan.kind is IndexKind.FLAT and plan.storage is Storage.FP32)


class GpuIndex:
    """An empty index, copied to the GPU to be trained and filled there."""

    def __init__(self, faiss: Untyped, index: Untyped, plan: IndexPlan, *, count: int) -> None:
        self._faiss = faiss
        if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() < 1:
            raise index_error(
                "expected faiss to see the GPU that the driver shows, found none: its CUDA and the driver do not match",
                f"update the driver; or {CPU_HINT}",
            )
        # The index on the GPU uses these and does not keep them alive.
        self._resources = faiss.StandardGpuResources()
        self._resources.setTempMemory(_SCRATCH)
        options = faiss.GpuClonerOptions()
        # This halves the tables of a product quantiser, which are otherwise too large for a kernel. It would
        # round the vectors of a flat index.
        options.useFloat16 = plan.kind is IndexKind.IVF_PQ
        options.usePrecomputed = False
        options.use_cuvs = False
        options.reserveVecs = count
        self.index = faiss.index_cpu_to_gpu(self._resources, _DEVICE, index, options)

    def to_cpu(self) -> Untyped:
        """Return a copy of the index for the CPU."""
        return self._faiss.index_gpu_to_cpu(self.index)

"""Index building on a GPU, as far as faiss can: what comes back is an index for the CPU.

The aircraft reads indexes with the CPU alone. A flat index comes back with the same bytes as one that never left the
CPU. A product quantiser does not: a GPU adds up in an order of its own, so that another training comes out, as good
and with other numbers. Graphs are grown on the CPU: the packages on PyPI have no builder of them for a GPU.
"""

from typing import Any, Final

from pipeline.index.plan import IndexPlan, failed
from pipeline.request.request import IndexKind, Storage

Untyped = Any
"""An object of faiss, which carries no types."""

HIDE: Final = 'CUDA_VISIBLE_DEVICES="" c10 build builds it on the CPU'

_DEVICE: Final = 0
_SCRATCH: Final = 256 << 20
"""Bytes of GPU memory that faiss takes for itself before it starts."""


def suits(plan: IndexPlan) -> bool:
    """Tell whether a GPU can build this kind of index."""
    return plan.kind is IndexKind.IVF_PQ or (plan.kind is IndexKind.FLAT and plan.storage is Storage.FP32)


class GpuIndex:
    """An empty index moved to the GPU, to be trained and filled there."""

    def __init__(self, faiss: Untyped, index: Untyped, plan: IndexPlan, *, count: int) -> None:
        self._faiss = faiss
        if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() < 1:
            raise failed(
                "expected faiss to see the GPU that the driver shows, found none: its CUDA and the driver do not match",
                f"update the driver; or {HIDE}",
            )
        # The index on the GPU works with these, and does not keep them alive.
        self._resources = faiss.StandardGpuResources()
        self._resources.setTempMemory(_SCRATCH)
        options = faiss.GpuClonerOptions()
        # Of a product quantiser this halves tables that are otherwise too big for a kernel; of a flat index it would
        # round the vectors.
        options.useFloat16 = plan.kind is IndexKind.IVF_PQ
        options.usePrecomputed = False
        options.use_cuvs = False
        options.reserveVecs = count
        self.index = faiss.index_cpu_to_gpu(self._resources, _DEVICE, index, options)

    def back(self) -> Untyped:
        """Return what was built, as an index for the CPU."""
        return self._faiss.index_gpu_to_cpu(self.index)

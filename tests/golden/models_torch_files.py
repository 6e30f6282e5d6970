"""Makes models_torch_files/: small weight files as torch and safetensors write them.

Run `python tests/golden/models_torch_files.py` where torch and safetensors are installed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).with_suffix("")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    tensors = {
        "float32": base,
        "shared_row": base[1],
        "transposed": base.T,
        "every_second": base[:, 1::2],
        "expanded": torch.arange(3.0).expand(2, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "float64": torch.randn(3, dtype=torch.float64),
        "float16": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "int32": torch.tensor([-1, 2], dtype=torch.int32),
        "int16": torch.tensor([-1, 2], dtype=torch.int16),
        "int8": torch.tensor([-1, 2], dtype=torch.int8),
        "uint8": torch.tensor([1, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
    }
    torch.save(tensors, FOLDER / "zip.pt")
    torch.save(tensors, FOLDER / "legacy.th", _use_new_zipfile_serialization=False)
    # As training scripts leave it: parallel names, and more than weights.
    trained = {
        "epoch": 3,
        "best_accuracy": np.float64(91.5),
        "args": argparse.Namespace(lr=0.1, devices=[0, 1]),
        "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "state_dict": torch.nn.DataParallel(torch.nn.BatchNorm1d(2)).state_dict(),
    }
    torch.save(trained, FOLDER / "trained.pt")
    torch.save(trained, FOLDER / "trained.th", _use_new_zipfile_serialization=False)
    whole = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    save_file(whole, FOLDER / "whole.safetensors")
    torch.save(torch.nn.Linear(2, 2), FOLDER / "module.pt")
    # NumPy has no bfloat16 of its own.
    expected = {n: (v.float() if n == "bfloat16" else v).numpy() for n, v in whole.items()}
    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()

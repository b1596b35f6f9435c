"""Write the networks to commit from the cache, in half precision: python tools/weights.py

Experiments measure these networks after the same rounding, whether they come from the cache or from
``weights/``.
"""

from __future__ import annotations

from pathlib import Path

from semirobust import runs, storage
from semirobust.experiments import networks

FOLDER = Path(__file__).resolve().parents[1] / "weights"


def main() -> None:
    pair = networks.PAIRS["reference"]["cifar10"]
    for config in (pair.standard, pair.robust):
        name = networks.COMMITTED[runs.config_hash(config)]
        cached = runs.cache_root() / f"{runs.config_hash(config)}.safetensors"
        if not cached.exists():
            raise SystemExit(f"{cached} is not there: train {name} first (experiment algorithm_1)")
        state, meta = storage.load_tensors(cached)
        rounded = {key: t.half() if t.is_floating_point() else t for key, t in state.items()}
        kept = {key: meta[key] for key in ("config", "log")}
        path = storage.save_tensors(FOLDER / f"{name}.safetensors", rounded, kept)
        print(f"{path}: {path.stat().st_size:,} bytes")
    lines = [f"{storage.sha256(path)}  {path.name}\n" for path in sorted(FOLDER.glob("*.safetensors"))]
    storage.write_atomic(FOLDER / "SHA256SUMS", "".join(lines).encode())


if __name__ == "__main__":
    main()

"""Script that writes a pair of networks to commit, in half precision: python tools/weights.py [PAIR]

The networks come from the cache. PAIR is a name in ``networks.PAIRS`` whose networks have a name in
``networks.COMMITTED`` (`semirobust.experiments.networks`). Experiments measure these networks after the same
rounding, whether they come from the cache or from ``semirobust/weights/``.
"""

from __future__ import annotations

import sys

from semirobust import paths, runs
from semirobust.experiments import networks

FOLDER = paths.weights_root()


def main(pair_name: str) -> None:
    known = networks.PAIRS["quick"] | networks.PAIRS["reference"]
    if pair_name not in known:
        raise SystemExit(str(paths.unknown("pair", pair_name, known)))
    pair = known[pair_name]
    for config in (pair.standard, pair.robust):
        name = networks.COMMITTED[runs.config_hash(config)]
        cached = paths.cache_root() / f"{runs.config_hash(config)}.safetensors"
        if not cached.exists():
            print(f"{name}: left out, as {cached} is not there (experiment algorithm_1 trains it)")
            continue
        state, meta = runs.load_tensors(cached)
        rounded = {key: t.half() if t.is_floating_point() else t for key, t in state.items()}
        path = runs.save_tensors(FOLDER / f"{name}.safetensors", rounded, meta)
        print(f"{path}: {path.stat().st_size:,} bytes")
    lines = [f"{runs.sha256(path)}  {path.name}\n" for path in sorted(FOLDER.glob("*.safetensors"))]
    runs.write_atomic(FOLDER / "SHA256SUMS", "".join(lines).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])

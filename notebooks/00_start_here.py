# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Start here: two papers on partial robustness, as something you can run
#
# **The first paper** (*A Theoretical Perspective on Subnetwork Contributions to Adversarial Robustness*,
# arXiv 2307.03803) asks: if the early part $f_a$ of a network is adversarially robust, and the layers behind
# it *depend* on it enough, is the whole network robust?
# **The second** (*Lower bounds on the robustness of fixed feature extractors to test-time adversaries*) asks
# how robust anything behind fixed features can be, by finding pairs of images whose perturbations collide in
# feature space. This companion computes their claims and says which of them to believe.

# %% tags=["parameters"]
profile = "quick"

# %%
from pathlib import Path

import jupytext
from IPython.display import Markdown, display

from semirobust import runs
from semirobust.experiments import algorithm_1, tables

runs.check_profile(profile)

# %% [markdown]
# ## What the first paper claims, and what we found
#
# | claim | what we found | where |
# | --- | --- | --- |
# | A frozen robust $f_a^*$ lets a fine-tuned $f_b$ regain the robustness of $(f_a^*, f_b^*)$ (Algorithm 1, Table 1) | Most of it comes back within a few epochs, from $f_b$ trained alone; whether *all* of it does depends on the scale, the attack, and on whether the test set may choose the epoch | `09_algorithm_1`, `10_table_1` |
# | The dependence $\rho$ recorded after success is what robustness needs | About the same dependence is there *before* fine-tuning, when the network is not robust, and most of each estimate is there for pairs shuffled within their class too, which have no dependence left | `09_algorithm_1` |
# | The printed numbers of AutoAttack, PGD and the differences are consistent | Not quite: one printed difference is not the difference of its columns, and $Acc^*$ under AutoAttack is larger than under PGD. The AutoAttack of the attack library that the paper names runs its parts for 10 steps, not 100; we measure both | `10_table_1` |
#
# The numbers behind the second column are in those notebooks, each with its $n$, interval and control; none
# is typed here.

# %% [markdown]
# ## The result in one table
#
# PGD accuracy of ResNet-18 on CIFAR-10, printed and ours. The *sound* reading lets held-out images decide
# when to stop.

# %% tags=["nbval-ignore-output"]
profiles = list(dict.fromkeys([profile, "reference", "paper"]))
outcome = algorithm_1.run_plan(algorithm_1.plans(profile)[0], profile)
rows = tables.side_by_side(profiles, ["pgd"])
keys = (
    "source",
    "network",
    "dataset",
    "n_fb",
    "acc_star",
    "acc_sr",
    "acc_tilde",
    "difference",
    "interval",
    "n",
)
display(Markdown(tables.as_markdown(rows, keys)))

# %% [markdown]
# ## The notebooks

# %% tags=["nbval-ignore-output"]
here = Path("notebooks") if Path("notebooks").is_dir() else Path(".")
lines = []
for path in sorted(here.glob("[0-9][0-9]_*.py")):
    first = next(cell for cell in jupytext.read(path).cells if cell.cell_type == "markdown")
    lines.append(f"* [`{path.stem}`]({path.stem}.ipynb): {first.source.splitlines()[0].lstrip('# ')}")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## The three profiles
#
# | profile | data | machine | how |
# | --- | --- | --- | --- |
# | `quick` | scikit-learn's digits at 16 x 16, narrow networks | any laptop, minutes, no network | `./run_all.sh` |
# | `reference` | CIFAR-10, ResNet-18 with a short schedule | two CPU cores, hours, resumable | `./run_all.sh --profile reference --only 10_table_1` |
# | `paper` | the printed setting: 120 epochs, batch 512 | a GPU or several | `./run_all.sh --profile paper --only 10_table_1` |
#
# Every notebook has one parameter, `profile`; every run is one JSON under `results/`, named by the hash of
# its configuration: what is there is loaded, what is missing is computed, and a run that was cut off goes on
# where it stopped.

# %% [markdown]
# ## Take a part into your own work
#
# The parts are ordinary functions on tensors and modules.

# %%
import torch

from semirobust import attacks, edge, layers, models

model = models.create("resnet18", num_classes=10, width=8, seed=0)
images, labels = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 10
evaluation = attacks.evaluate(model, images, labels, "pgd", eps=8 / 255)
split = layers.Split(model, n_fb=4)
outputs = layers.activations(model, images, split.layers[-2:])
estimate = edge.edge(*outputs.values())
print(
    f"PGD: {evaluation.correct.sum()} of {len(labels)} stay right; f_b starts at {split.first_b}; EDGE cap {estimate.cap_bits:.0f} bits"
)

# %% [markdown]
# ## Checks

# %%
assert evaluation.accuracy <= evaluation.clean_accuracy
print("attacked accuracy is at most clean accuracy: ok")
assert 0 <= float(estimate) <= estimate.cap_bits
print("the dependence estimate is within its cap: ok")
assert len(lines) >= 3 and any(row["source"].startswith("ours") for row in rows)
print("the notebooks and at least one row of ours are there: ok")

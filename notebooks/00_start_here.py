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

from semirobust import paths
from semirobust.experiments import algorithm_1, tables

paths.check_profile(profile)

# %% [markdown]
# ## What the first paper claims, and where it is computed
#
# | claim | what the notebook shows | where |
# | --- | --- | --- |
# | A subnetwork is $\gamma$-semirobust (Definition 1) | without a normalisation only the sign of $\gamma$ means anything; with one, the best $\gamma$ is exactly computable from conflicts | `01_definition_1` |
# | ... if and only if all its layers are (Theorem 1) | true but near-definitional; what is useful: the best robust correlation never rises with depth | `02_theorem_1` |
# | Enough dependence carries robustness to the next layer (Lemma 1) and to the end (Theorem 2) | where the proofs break, why no bound of this kind exists, five bounds that do | `03_lemma_1`, `04_theorem_2` |
# | Linear connections add robustness up (Lemma 2, Theorem 3) | false unless the given weights certify; the count of paths, and why its growth is scale | `05_lemma_2`, `06_theorem_3` |
# | Close weights mean close performance (section 2.2) | which inequalities fail, two that hold, how loose they are on a trained network | `07_performance_difference` |
# | EDGE measures the dependence of layers | what it computes, where it is right, where the number is set by the number of images | `08_edge`, `31_dependence_measures` |
# | A frozen robust $f_a^*$ lets a fine-tuned $f_b$ regain the robustness of $(f_a^*, f_b^*)$ (Algorithm 1, Table 1) | how much of it comes back, in how many epochs, when the test set chooses the epoch and when held-out images do | `09_algorithm_1`, `10_table_1` |
# | The dependence $\rho$ recorded after success is what robustness needs | the same dependence before fine-tuning, when the network is not robust; the part of it that shuffled pairs have too; whether it tells success from failure | `09_algorithm_1` |
# | A linear readout of the layers is robust (Algorithm 2, Table 2) | it is scored on the data it was solved on, under attacks made for another network; what is left otherwise | `15_algorithm_2`, `16_table_2` |
# | The printed numbers | beside ours; one printed difference is not the difference of its columns, and $Acc^*$ under AutoAttack is above $Acc^*$ under PGD; the library named runs AutoAttack for 10 steps and not 100, so we measure both | `10_table_1` |
# | The paper's sentences about its tables (Table 3) | each counted in the printed rows; most hold, "deeper layers have higher $\rho$" is upside down | `11_table_3` |
# | $\rho$ is consistent across attacks and sizes of $f_b$ (Figure 1), differs between data sets and rises in training (Figure 2) | so it is for shuffled pairs and before the network is robust; data sets differ as the caps of the estimator do | `12_figure_1`, `13_figure_2` |

# %% [markdown]
# ## What the second paper claims, and where it is computed
#
# | claim | what the notebook shows | where |
# | --- | --- | --- |
# | Collisions bound the robust loss of every classifier behind the features (Lemma 1) | the least losses on a conflict graph, exactly, with a proof that can be checked | `20_conflict_graphs` |
# | Linear features have a closed form | all pairs of two classes of digits at once; where the distance is no metric | `21_linear_collisions` |
# | A descent over activation patterns finds collisions behind ReLUs (Algorithms 1 and 2) | Figure 1 live, where the printed rule stops too early, a faster solver, exact verification | `22_relu_collisions` |
# | Robust training keeps the first linear layer robust; a convolution costs nothing (Figures 2, 7, 11) | exact bounds on thousands of images; the rank that explains the convolution; max-pools and shortcuts | `23_first_linear_layer`, `27_convolution` |
# | The first ReLU contributes significantly, the second linear layer little, the second ReLU measurably (Figures 3, 4, 8, 9) | the cost of every step, and why a part of the pairs is enough | `24_layer_by_layer` |
# | Larger training budgets can hurt at smaller ones; PGD and TRADES end alike; narrow is worse (Figures 5, 6, 10) | each sentence computed, with other images for the noise | `25_second_relu`, `26_width` |
# | (in neither paper) | collisions certify a ceiling on the semirobustness of a layer, whatever the readout | `30_ceiling` |

# %% [markdown]
# ## The result in one table
#
# PGD accuracy of ResNet-18, printed and ours. In the *printed* reading the test set decides when a trial stops, in the *sound* one
# held-out images do; the interval is that of the paired difference. $Acc^*$ is that of the robust network, $Acc_{sr}$ that
# of its frozen $f_a^*$ with the $f_b$ of the standard network, $\widetilde{Acc}$ that after $f_b$ is fine-tuned. Before comparing
# look at the scales below it.

# %% tags=["nbval-ignore-output"]
profiles = list(dict.fromkeys([profile, "reference", "paper"]))
outcome = algorithm_1.run_plan(algorithm_1.plans(profile)[0], profile)
rows = tables.side_by_side(profiles, ["pgd"])
rows = [row for row in rows if row["network"].startswith("resnet18") and row["dataset"] != "cifar100"]
keys = ["source", "network", "dataset", "n_fb", "acc_star", "acc_sr", "acc_tilde"]
keys += ["difference", "interval", "n"]
display(Markdown(tables.as_markdown(rows, keys)), Markdown(tables.scales(rows)))

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
# | `quick` | scikit-learn's digits (16 x 16, in the second paper 28 x 28), narrow networks | any laptop, minutes, no network | `./run_all.sh` |
# | `reference` | CIFAR-10, ResNet-18 with a short schedule; in the second paper MNIST and Fashion-MNIST | two CPU cores, hours, resumable | `./run_all.sh --profile reference --only 10_table_1` |
# | `paper` | the printed setting: 120 epochs, batch 512 | a GPU or several | `./run_all.sh --profile paper --only 10_table_1` |
#
# Every notebook has one parameter, `profile`; every run is one JSON under `results/`, named by the hash of
# its configuration: what is there is loaded, what is missing is computed, and a run that was cut off goes on
# where it stopped.

# %% [markdown]
# ## Take a part into your own work
#
# The parts are ordinary functions on tensors and modules. Here on the robust network of the quick profile:

# %%
from semirobust import attacks, edge, layers
from semirobust.experiments import networks

quick = networks.PAIRS["quick"]["digits"]
model, _ = networks.trained(quick.robust)
digits = networks.test_images(quick.robust, 100)
evaluation = attacks.evaluate(model, digits.images, digits.labels, "pgd", eps=quick.attack.eps)
split = layers.Split(model, n_fb=4)
outputs = layers.activations(model, evaluation.x_adv, split.layers[-2:])
estimate = edge.edge(*outputs.values())
print(
    f"f_b of {split.n_fb} layers starts at {split.first_b}; EDGE on {estimate.n} images is capped at {estimate.cap_bits:.2f} bits"
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

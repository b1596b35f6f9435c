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
# how robust anything behind fixed features can be, by finding images whose perturbations collide in feature
# space.
#
# **In one sentence.** A robust $f_a^*$ does let a fine-tuned $f_b$ regain the robustness, but the dependence
# between layers neither gives it nor measures it; and collisions do prove what no classifier can reach.

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
from IPython.display import Markdown

from semirobust import figures, paths
from semirobust.experiments import controls, networks, tables
from semirobust.figures import algorithm_1 as draw

figures.use_style()
paths.check_profile(profile)
rows = [row for row in controls.control_rows() if row["pair"].startswith("cifar10")]
points = [point for point in controls.dependence_points(12) if point["pair"].startswith("cifar10")]
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
draw.draw_controls(axes[0], rows, 12)
axes[0].set(ylabel="accuracy under PGD-10 (%)", title="What is frozen decides")
draw.draw_dissociation(axes[1], points)
axes[1].set_title("Dependence does not")
fig.suptitle("Fine-tuning $f_b$ of 12 layers behind a frozen $f_a$ (ResNet-18 of width 16, CIFAR-10)")
data = {"controls": rows, "dependence": points}
figures.save_figure(fig, "00_start_here", profile="reference", notebook="00_start_here", data=data)
plt.show()

# %% [markdown]
# *Left: bars after fine-tuning, black ticks before; only behind the robust $f_a^*$ does the robustness come
# back. Right: an arrow is fine-tuning. The dependence (above that of shuffled pairs) is highest in networks
# without robustness. ([Notebook 09](09_algorithm_1.ipynb))*
#
# ## What the first paper claims, and what is true
#
# | claim | verdict | notebook |
# | --- | --- | --- |
# | Definition 1: a subnetwork is $\gamma$-semirobust | a number only with normalised readouts; then exactly computable | [01](01_definition_1.ipynb) |
# | Theorem 1: ... iff all its layers are | true, near-definitional; the best robust correlation never rises with depth | [02](02_theorem_1.ipynb) |
# | Lemma 1, Theorem 2: dependence carries robustness on | no bound of this kind exists; five that do | [03](03_lemma_1.ipynb), [04](04_theorem_2.ipynb) |
# | Lemma 2, Theorem 3: linear connections add it up | false unless the given weights certify; paths are counted | [05](05_lemma_2.ipynb), [06](06_theorem_3.ipynb) |
# | Close weights mean close performance | only through all later layers | [07](07_performance_difference.ipynb) |
# | EDGE measures the dependence | mostly what shuffled pairs have too | [08](08_edge.ipynb) |
# | Algorithm 1, Tables 1 and 3 | the robustness comes back, and $f_a^*$ is what brings it | [09](09_algorithm_1.ipynb), [10](10_table_1.ipynb), [11](11_table_3.ipynb) |
# | Figures 1 to 3 | consistent, as shuffled pairs are; pairs of networks differ | [12](12_figure_1.ipynb), [13](13_figure_2.ipynb), [14](14_figure_3.ipynb) |
# | Algorithm 2, Table 2: a linear readout is robust | not when it is attacked itself | [15](15_algorithm_2.ipynb), [16](16_table_2.ipynb) |
# | Which dependence predicts success? (open question) | several, as the learning rate does | [31](31_dependence_measures.ipynb) |
#
# ## What the second paper claims, and what is true
#
# | claim | verdict | notebook |
# | --- | --- | --- |
# | Lemma 1: collisions bound every classifier's loss | true, exactly, with a certificate | [20](20_conflict_graphs.ipynb) |
# | Linear features have a closed form | true | [21](21_linear_collisions.ipynb) |
# | Algorithms 1 and 2 find collisions behind ReLUs | valid; not always the nearest | [22](22_relu_collisions.ipynb) |
# | Figures 2, 7, 11: linear layers and convolutions | computed exactly | [23](23_first_linear_layer.ipynb), [27](27_convolution.ipynb) |
# | Figures 3 to 6, 8 to 10: layers, training, width | mostly true; each sentence has its verdict | [24](24_layer_by_layer.ipynb), [25](25_second_relu.ipynb), [26](26_width.ipynb) |
# | Both papers together (in neither) | collisions put a ceiling on semirobustness | [30](30_ceiling.ipynb) |
#
# ## The result in one table
#
# PGD accuracy of ResNet-18, printed and ours: $Acc^*$ of the robust network, $Acc_{sr}$ of its frozen $f_a^*$
# with the old $f_b$, $\widetilde{Acc}$ after $f_b$ is fine-tuned.

# %%
found = tables.side_by_side(["reference"], ["pgd"], readings=["sound"]) + controls.long_rows(["pgd"])
found = [row for row in found if row["network"].startswith("resnet18") and row["dataset"] == "cifar10"]
Markdown(tables.compact([row for row in found if row["n_fb"] in (4, 12)]))

# %% [markdown]
# ## Where to go
#
# * **Ten minutes**: [09](09_algorithm_1.ipynb), then [04](04_theorem_2.ipynb).
# * **An hour**: 01 to 04 for the theory; 08 to 11 for the experiments; 20, 22 and 30 for the second paper.
# * **A day**: `./run_all.sh` runs everything on digits. Change a number in any notebook and run it again.
# * **A week**: `./run_all.sh campaign --profile reference` computes what is not stored yet; it can be stopped
#   and started at any time.
#
# Every notebook has one parameter, `profile`: `quick` (digits, any laptop), `reference` (CIFAR-10, MNIST,
# narrow networks, two CPU cores, stored with the project) or `paper` (the printed setting, for GPUs). Every run
# is one JSON under `results/`, named by the hash of its configuration: what is there is loaded, what is
# missing is computed.
#
# ## Take a part into your own work
#
# The parts are ordinary functions on tensors and modules:

# %%
from semirobust import attacks, edge, layers

quick = networks.PAIRS["quick"]["digits"]
model, _ = networks.trained(quick.robust)
digits = networks.test_images(quick.robust, 100)
evaluation = attacks.evaluate(model, digits.images, digits.labels, "pgd", eps=quick.attack.eps)
split = layers.Split(model, n_fb=4)
outputs = layers.activations(model, evaluation.x_adv, split.layers[-2:])
estimate = edge.edge(*outputs.values())
print(f"f_b of {split.n_fb} layers starts at {split.first_b}")
print(f"EDGE on {estimate.n} images is capped at {estimate.cap_bits:.2f} bits")

# %% [markdown]
# ## Checks

# %%
assert evaluation.accuracy <= evaluation.clean_accuracy
print("attacked accuracy is at most clean accuracy: ok")
assert 0 <= float(estimate) <= estimate.cap_bits
print("the dependence estimate is within its cap: ok")
assert {row["f_a"] for row in rows} == {"robust", "standard", "random"} and len(found) > 4
print("the stored results of Algorithm 1 and its controls are there: ok")

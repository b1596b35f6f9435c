"""Two papers on adversarial robustness as a small library: data, networks, attacks, dependence, experiments.

Nothing is imported here: ask for the module you need, for example ``from semirobust import attacks``. Modules
are in floors and import downward only: data; models, layers, edge, conflict, finite; attacks, training,
correlation, collisions, bounds, dependence; rho, linear_readout, runs, figures; experiments and the command
line.
"""

__version__ = "0.1.0"

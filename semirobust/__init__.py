"""A library for two papers on adversarial robustness: partial robustness, and fixed feature extractors.

Nothing is imported here: ask for the package you need, for example ``from semirobust import attacks``. Each
package names its files in its docstring. Imports go downward only: models, statistics, paths, edge, conflict;
runs, layers, theory; data, attacks, bounds, extractors, dependence; training, collisions, readouts;
experiments; figures and the command line.
"""

__version__ = "0.1.0"

"""The runner of the notebooks, and the maker of the committed ones.

sources   which notebooks there are, their parameters, what their outputs depend on
run       skips what is up to date, runs the rest side by side, says how it went
workers   the processes at work, one for each notebook
execute   one notebook in a process of its own: papermill, a time limit, dead kernels, cells that never ran
outputs   what a run leaves under ``build``, and its memory of what has passed
pairing   one committed notebook (.ipynb) from its source (.py)
"""

"""``python -m troth.simulate``: the same as ``troth simulate``."""

from importlib import import_module

if __name__ == "__main__":
    # By name: the command stands above this package, which must not depend on it.
    import_module("troth.cli.simulate").simulate.main(prog_name="troth simulate")

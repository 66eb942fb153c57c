"""``python -m featureflow.cli``: the same as the ``featureflow`` command; ``up`` starts its children so."""

from featureflow.cli.main import main

main()

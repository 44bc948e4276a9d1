"""The tests: `python -m tests` (`make test`) runs them on every kind of server there is."""

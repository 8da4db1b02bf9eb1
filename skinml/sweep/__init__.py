"""Many runs, `python -m skinml.sweep`: the cells, their order, and the engines that run them."""

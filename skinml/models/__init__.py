"""The networks: pre-trained backbones and the paper's head on top of them."""

"""Where a network looks: class activation maps, what they are worth, and pictures of them."""

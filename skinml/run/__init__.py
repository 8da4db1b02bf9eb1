"""One run, `python -m skinml.run`: data, training, evaluation and what is noted of them."""

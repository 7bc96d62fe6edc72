"""Assets such as network weights: where they come from, and the folder that keeps them."""

"""Networks: architectures, weights by name, one training loop. torch is imported only inside what needs it."""

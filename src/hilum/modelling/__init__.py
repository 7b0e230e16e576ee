"""The network and all that turns a batch of HU into logits and a loss."""

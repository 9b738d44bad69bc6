"""Forward models: no files, no state, no instrument. Used by the simulator and, later, by the training of networks."""

"""What the benches are made of: an instrument that takes no time, and programs that are killed or watched."""

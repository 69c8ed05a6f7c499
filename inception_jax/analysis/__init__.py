"""What a network is made of: stages, shapes, multiply-accumulates, heat maps."""

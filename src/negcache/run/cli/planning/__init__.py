"""What a run will take, from its config and its data, before anything is allocated."""

"""`make bench`: snnkit beside its peers, in one run, on the same weights and the same spikes."""

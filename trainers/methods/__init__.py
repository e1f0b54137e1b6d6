"""Methods that may join a training beside its schedule: each is a file of its own, with a card of the same name beside it."""

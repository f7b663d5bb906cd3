"""What all rooms share: checks of arguments, folders, memory, defaults."""

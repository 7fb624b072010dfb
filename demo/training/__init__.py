"""How the demo checkpoint is trained. Needs torch; nothing that is installed imports this."""

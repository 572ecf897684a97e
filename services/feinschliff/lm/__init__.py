"""What training and serving must do alike: load a base, render a chat, adapt the model, score and draw tokens."""

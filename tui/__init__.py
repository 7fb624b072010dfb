"""The terminal: the commands and the chat app. Only this room talks to the screen."""

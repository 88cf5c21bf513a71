"""The code behind app.ipynb and training.ipynb. Each module says what it is for; start with `classifier`."""

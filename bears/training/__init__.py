"""What training.ipynb is made of. Its cells say what, these modules say how."""

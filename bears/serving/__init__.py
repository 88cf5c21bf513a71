"""What a visitor's page is made of, beside app.ipynb and the classifier."""

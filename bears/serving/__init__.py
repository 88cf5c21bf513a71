"""What a visitor's page is made of, beside app.ipynb and the classifier."""

LARGEST_MESSAGE = "BEARS_LARGEST_MESSAGE"  # in a kernel's environment: what its Voilà takes of a browser, in bytes

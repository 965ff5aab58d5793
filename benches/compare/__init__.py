"""What `compare.py` and `cuda.py` are made of; see README.md beside this folder."""

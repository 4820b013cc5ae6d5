"""Logs, catalogues, histories and the one feature function of training and serving."""

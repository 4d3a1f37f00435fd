"""Annotation by people: tasks go out, labels come back, and the network is trained on them.

requests.py selects the samples and writes the tasks, tasks.py is their file format, request_log.py and label_log.py are
the two append-only logs, imports.py reads labels and trains, state.py finds the current network.
"""

"""Annotation: requests go out as tasks, labels come back, and the network is trained on them.

requests.py selects the samples and writes the tasks; tasks.py is their file format, and label_studio.py reads Label
Studio's exports; request_log.py and label_log.py are the two append-only logs; imports.py imports labels and trains;
pool_files.py knows samples by their content; state.py reads the run.
"""

"""People in the loop: which samples they are asked about, in what form, and what becomes of their answers.

asking.py chooses and writes the tasks, labelling.py is their form, out and back; asked.jsonl (asked.py) and
labels.jsonl (label_log.py) are the memory; answers.py takes labels in and trains on; state.py says which network
counts.
"""

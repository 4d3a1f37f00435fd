"""Speed and memory beside what a user would pick instead; each module is a script, as in `docs/benchmarks.md`."""

"""The contract of a plug-in, as checks a user can run on one of theirs; the tests run them on every pair of ours."""

CHECKS = ("effect", "step", "gradients", "teacher", "waits", "resume", "determinism", "zero", "safe load")

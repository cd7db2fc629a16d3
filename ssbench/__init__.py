"""ssbench: the result tables of semi-supervised segmentation papers, re-run and printed beside what was printed."""

__version__ = "0.1.0"

"""Whether what a study has stored is true: the promise of docs/guarantees.md, looked at and mended."""

//! The controllers: each a pure `plan()` and a thin reconcile loop in one file.

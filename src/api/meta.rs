//! Reading and writing an object's metadata as a JSON value.

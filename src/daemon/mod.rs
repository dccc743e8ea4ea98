//! The daemon: the only place that knows every component. `Config` -> build -> spawn -> drain.

//! Memory that the process no longer needs.

/// Gives memory that was freed back to the system: after a piece of work that needed much of it and seldom comes.
pub fn give_back() {
    // Other C libraries return what is freed by themselves.
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` may be called at any time by any thread; it touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

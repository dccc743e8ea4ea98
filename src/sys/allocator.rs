//! The allocator of the whole program: jemalloc.
//!
//! What a cluster does is parse documents and let them go, on several threads: a third of the daemon's time went into the
//! C library's allocator. Libraries in C keep that one.

use std::ffi::c_char;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Read by jemalloc when it begins: few arenas, because more hold more memory than they save waiting, and pages that are
/// given back soon after a burst of pods.
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: Option<&'static c_char> = {
    let text = c"narenas:4,dirty_decay_ms:500,muzzy_decay_ms:0";
    // SAFETY: it ends with a zero and lasts for ever.
    Some(unsafe { &*text.as_ptr() })
};

//! The ways in which programs call this processor's kernel, each with numbers of its own: its own and the 32-bit one.

use std::str::FromStr;

/// A way to call the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Convention {
    /// `AUDIT_ARCH_*` (linux/audit.h).
    pub audit: u32,
    /// The name in OCI profiles.
    pub oci: &'static str,
    /// The name in profiles of Docker's form.
    pub docker: &'static str,
    /// A call's number, when it has the call.
    pub number: fn(&str) -> Option<u32>,
}

/// Calls of 32-bit ARM outside of its table (`__ARM_NR_*` of asm/unistd.h).
const ARM_PRIVATE: [(&str, u32); 3] =
    [("breakpoint", 0xf_0001), ("cacheflush", 0xf_0002), ("set_tls", 0xf_0005)];

/// The processor's own.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: Convention = Convention {
    audit: 0xc000_003e,
    oci: "SCMP_ARCH_X86_64",
    docker: "amd64",
    number: |name| syscalls::x86_64::Sysno::from_str(name).ok().map(|call| call as u32),
};
/// Of 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub const COMPATIBLE: Convention = Convention {
    audit: 0x4000_0003,
    oci: "SCMP_ARCH_X86",
    docker: "x86",
    number: |name| syscalls::x86::Sysno::from_str(name).ok().map(|call| call as u32),
};
/// The processor's own.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: Convention = Convention {
    audit: 0xc000_00b7,
    oci: "SCMP_ARCH_AARCH64",
    docker: "arm64",
    number: |name| syscalls::aarch64::Sysno::from_str(name).ok().map(|call| call as u32),
};
/// Of 32-bit programs.
#[cfg(target_arch = "aarch64")]
pub const COMPATIBLE: Convention = Convention {
    audit: 0x4000_0028,
    oci: "SCMP_ARCH_ARM",
    docker: "arm",
    number: |name| {
        let private = ARM_PRIVATE.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        private.or_else(|| syscalls::arm::Sysno::from_str(name).ok().map(|call| call as u32))
    },
};

/// Whether Linux has a call of this name on any processor that the table of names knows.
pub fn is_known(name: &str) -> bool {
    use syscalls::{aarch64, arm, mips64, powerpc64, riscv64, s390x, x86, x86_64};
    x86_64::Sysno::from_str(name).is_ok()
        || x86::Sysno::from_str(name).is_ok()
        || aarch64::Sysno::from_str(name).is_ok()
        || arm::Sysno::from_str(name).is_ok()
        || riscv64::Sysno::from_str(name).is_ok()
        || powerpc64::Sysno::from_str(name).is_ok()
        || s390x::Sysno::from_str(name).is_ok()
        || mips64::Sysno::from_str(name).is_ok()
        || ARM_PRIVATE.iter().any(|(known, _)| *known == name)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_names_says_what_the_c_library_says() {
        for (name, native, compatible) in [
            ("read", Some(libc::SYS_read), Some(3)),
            ("mkdirat", Some(libc::SYS_mkdirat), Some(296)),
            ("socketcall", None, Some(102)),
            ("clone3", Some(libc::SYS_clone3), Some(435)),
            ("cachestat", Some(451), Some(451)),
            ("statmount", Some(457), Some(457)),
            ("listmount", Some(458), Some(458)),
            ("setxattrat", Some(463), Some(463)),
            ("made_up", None, None),
        ] {
            assert_eq!((NATIVE.number)(name), native.map(|number| number as u32), "{name}");
            assert_eq!((COMPATIBLE.number)(name), compatible, "{name}");
            assert_eq!(is_known(name), compatible.is_some(), "{name}");
        }
    }
}

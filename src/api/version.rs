//! The version of Kubernetes whose API is served.

/// The first number.
pub const MAJOR: &str = "1";
/// The second.
pub const MINOR: &str = "37";
/// As nodes and documents show it.
pub const KUBERNETES: &str = "v1.37.0";
/// The processor as Go names it, in labels and downloads.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    std::env::consts::ARCH
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_agree() {
        assert_eq!(KUBERNETES, format!("v{MAJOR}.{MINOR}.0"));
    }
}

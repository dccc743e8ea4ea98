//! What a user may set for a cluster, by flags and files, and what such values must look like.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::node_settings::NodeSettings;
use crate::network::{Cidr, Cidr6};

/// The longest profile name: it becomes part of cgroup, table and unit names.
const PROFILE_MAX: usize = 40;
/// Settings for new clusters of this machine.
pub const MACHINE_FILE: &str = "/etc/minik/config.yaml";

/// What a user may set; absent fields are the defaults or what the cluster had before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The port of the API server.
    pub apiserver_port: Option<u16>,
    /// Whether pods and services have addresses of IPv6 beside those of IPv4 (default: auto).
    pub dual_stack: Option<DualStack>,
    /// Where pods get their addresses: `V4`, or `V4,V6`.
    pub pod_cidr: Option<String>,
    /// Where services get their addresses, likewise.
    pub service_cidr: Option<String>,
    /// The node's name.
    pub node_name: Option<String>,
    /// Mirrors by registry; empty is none at all.
    pub registry_mirrors: Option<BTreeMap<String, Vec<String>>>,
    /// Registries without TLS; empty is none at all.
    pub insecure_registries: Option<Vec<String>>,
    /// Whether containers of a pod share processes when the pod does not say (default: true).
    pub share_process_namespace: Option<bool>,
    /// Whether services have the external addresses that they ask for (default: false).
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<bool>,
    /// The node's own settings.
    pub kubelet: NodeSettings,
    /// Which requests are recorded (a Policy of audit.k8s.io/v1); an empty path is none.
    pub audit_policy_file: Option<PathBuf>,
    /// Where they are recorded; an empty path is nowhere.
    pub audit_log_file: Option<PathBuf>,
    /// Megabytes after which that file is put aside; 0 is never.
    pub audit_log_maxsize: Option<u32>,
    /// How many such files are kept; 0 is all.
    pub audit_log_maxbackup: Option<u32>,
    /// For how many days; 0 is for ever.
    pub audit_log_maxage: Option<u32>,
    /// Whether ingresses are carried out (default: true).
    pub ingress: Option<bool>,
    /// The port of the ingress for HTTP.
    pub ingress_http_port: Option<u16>,
    /// And for HTTPS.
    pub ingress_https_port: Option<u16>,
}

/// Whether a cluster has addresses of both families.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum DualStack {
    /// It has where the host has an IPv6 address that others can reach.
    #[default]
    Auto,
    /// It has.
    On,
    /// It has those of IPv4 alone.
    Off,
}

/// As files have it: YAML's `true` and `false` are not words.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Truth(bool),
    Word(String),
}

impl FromStr for DualStack {
    type Err = String;

    fn from_str(text: &str) -> Result<DualStack, String> {
        match text {
            "auto" => Ok(DualStack::Auto),
            "true" => Ok(DualStack::On),
            "false" => Ok(DualStack::Off),
            _ => Err(format!("{text:?} must be auto, true or false")),
        }
    }
}

impl TryFrom<Written> for DualStack {
    type Error = String;

    fn try_from(written: Written) -> Result<DualStack, String> {
        match written {
            Written::Truth(true) => Ok(DualStack::On),
            Written::Truth(false) => Ok(DualStack::Off),
            Written::Word(word) => word.parse(),
        }
    }
}

impl From<DualStack> for Written {
    fn from(dual_stack: DualStack) -> Written {
        match dual_stack {
            DualStack::Auto => Written::Word("auto".into()),
            DualStack::On => Written::Truth(true),
            DualStack::Off => Written::Truth(false),
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {message}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong where.
        message: String,
    },
    /// A value makes no sense.
    #[error("{field}: {message}")]
    Value {
        /// As the flag is called.
        field: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl Settings {
    /// Reads a settings file in YAML.
    pub fn read(path: &Path) -> Result<Settings, Error> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        if text.trim().is_empty() {
            return Ok(Settings::default());
        }
        serde_yaml::from_str(&text)
            .map_err(|error| Error::Content { path: path.to_owned(), message: error.to_string() })
    }

    /// The settings of the machine, for clusters that are made on it; none when there is no such file.
    pub fn of_machine() -> Result<Settings, Error> {
        let path = Path::new(MACHINE_FILE);
        if path.exists() { Settings::read(path) } else { Ok(Settings::default()) }
    }

    /// These settings where they say something, `below` where they do not; lists add up unless they are empty.
    pub fn over(self, below: Settings) -> Settings {
        let registry_mirrors = match (self.registry_mirrors, below.registry_mirrors) {
            (Some(own), Some(mut all)) if !own.is_empty() => {
                all.extend(own);
                Some(all)
            }
            (own, below) => own.or(below),
        };
        let insecure_registries = match (self.insecure_registries, below.insecure_registries) {
            (Some(own), Some(mut all)) if !own.is_empty() => {
                all.extend(own);
                all.sort();
                all.dedup();
                Some(all)
            }
            (own, below) => own.or(below),
        };
        Settings {
            apiserver_port: self.apiserver_port.or(below.apiserver_port),
            dual_stack: self.dual_stack.or(below.dual_stack),
            pod_cidr: self.pod_cidr.or(below.pod_cidr),
            service_cidr: self.service_cidr.or(below.service_cidr),
            node_name: self.node_name.or(below.node_name),
            registry_mirrors,
            insecure_registries,
            share_process_namespace: self.share_process_namespace.or(below.share_process_namespace),
            external_ips: self.external_ips.or(below.external_ips),
            kubelet: self.kubelet.over(below.kubelet),
            audit_policy_file: self.audit_policy_file.or(below.audit_policy_file),
            audit_log_file: self.audit_log_file.or(below.audit_log_file),
            audit_log_maxsize: self.audit_log_maxsize.or(below.audit_log_maxsize),
            audit_log_maxbackup: self.audit_log_maxbackup.or(below.audit_log_maxbackup),
            audit_log_maxage: self.audit_log_maxage.or(below.audit_log_maxage),
            ingress: self.ingress.or(below.ingress),
            ingress_http_port: self.ingress_http_port.or(below.ingress_http_port),
            ingress_https_port: self.ingress_https_port.or(below.ingress_https_port),
        }
    }
}

/// Checks a profile's name: it becomes part of paths, units, tables and cgroups.
pub fn check_profile(name: &str) -> Result<(), Error> {
    let good = !name.is_empty()
        && name.len() <= PROFILE_MAX
        && name != "images"
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good {
        return Ok(());
    }
    Err(Error::Value {
        field: "--profile",
        message: format!(
            "{name:?} must be up to {PROFILE_MAX} lower-case letters, digits or '-', and not \"images\""
        ),
    })
}

/// Ranges given by a user, of IPv4 and perhaps of IPv6: `10.244.0.0/16,fd00:10:244::/64`. The latter has a prefix of
/// these lengths.
fn parse_ranges(
    field: &'static str,
    text: &str,
    prefixes6: RangeInclusive<u8>,
) -> Result<(Cidr, Option<Cidr6>), Error> {
    let Some((first, second)) = text.split_once(',') else { return Ok((parse_cidr(field, text)?, None)) };
    let range: Cidr6 = second.trim().parse().map_err(|_| Error::Value {
        field,
        message: format!(
            "{text:?} must be a range of IPv4, or that and one of IPv6 such as 10.244.0.0/16,fd00:10:244::/64"
        ),
    })?;
    if !prefixes6.contains(&range.prefix) {
        let message = format!("{range} must have a prefix of /{} to /{}", prefixes6.start(), prefixes6.end());
        return Err(Error::Value { field, message });
    }
    Ok((parse_cidr(field, first.trim())?, Some(range)))
}

/// The ranges of a cluster's pods.
pub fn parse_pod_ranges(field: &'static str, text: &str) -> Result<(Cidr, Option<Cidr6>), Error> {
    parse_ranges(field, text, 48..=112)
}

/// The ranges of its services, of IPv6 no larger than Kubernetes takes them.
pub fn parse_service_ranges(field: &'static str, text: &str) -> Result<(Cidr, Option<Cidr6>), Error> {
    parse_ranges(field, text, 108..=120)
}

/// Such ranges as they are written.
pub fn ranges_text(v4: Cidr, v6: Option<Cidr6>) -> String {
    v6.map_or(v4.to_string(), |v6| format!("{v4},{v6}"))
}

/// A range of IPv4 given by a user.
fn parse_cidr(field: &'static str, text: &str) -> Result<Cidr, Error> {
    let cidr: Cidr = text.parse().map_err(|_| Error::Value {
        field,
        message: format!("{text:?} is not an IPv4 range such as 10.244.0.0/16"),
    })?;
    if !(8..=24).contains(&cidr.prefix) {
        return Err(Error::Value { field, message: format!("{text} must have a prefix of /8 to /24") });
    }
    Ok(cidr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_win_and_lists_add_up() {
        let file: Settings = serde_yaml::from_str(
            "apiserverPort: 9443\nregistryMirrors: {docker.io: [http://a]}\ninsecureRegistries: [x]\n",
        )
        .unwrap();
        let flags = Settings {
            apiserver_port: Some(1234),
            registry_mirrors: Some([("quay.io".to_owned(), vec!["b".to_owned()])].into()),
            insecure_registries: Some(vec!["x".into(), "y".into()]),
            ..Settings::default()
        };
        let both = flags.over(file.clone());
        assert_eq!((both.apiserver_port, both.registry_mirrors.unwrap().len()), (Some(1234), 2));
        assert_eq!(both.insecure_registries.unwrap(), ["x", "y"]);
        let none = Settings {
            registry_mirrors: Some(BTreeMap::new()),
            insecure_registries: Some(Vec::new()),
            ..Settings::default()
        };
        let cleared = none.over(file.clone());
        assert_eq!((cleared.registry_mirrors, cleared.insecure_registries), (Some([].into()), Some(vec![])));
        assert_eq!(Settings::default().over(file.clone()), file);
        assert!(serde_yaml::from_str::<Settings>("apiserverPotr: 1").is_err());
    }

    #[test]
    fn values_are_checked() {
        for bad in ["", "A", "a/b", "..", "-a", "images", &"a".repeat(41)] {
            assert!(check_profile(bad).is_err(), "{bad}");
        }
        assert!(check_profile("exercise-1").is_ok());
    }

    #[test]
    fn ranges_are_one_or_two() {
        let pods = |text: &str| parse_pod_ranges("--pod-cidr", text).map(|(v4, v6)| ranges_text(v4, v6)).ok();
        for (text, ranges) in [
            ("10.244.0.0/16", Some("10.244.0.0/16")),
            ("10.244.1.0/16, fd00:10:244::1/64", Some("10.244.0.0/16,fd00:10:244::/64")),
            ("10.0.0.0/30", None),
            ("fd00:10:244::/64", None),
            ("fd00:10:244::/64,10.244.0.0/16", None),
            ("10.244.0.0/16,10.245.0.0/16", None),
            ("10.244.0.0/16,fd00:10:244::/32", None),
            ("10.244.0.0/16,fd00::/64,fd01::/64", None),
        ] {
            assert_eq!(pods(text).as_deref(), ranges, "{text}");
        }
        let large = parse_service_ranges("--service-cidr", "10.96.0.0/12,fd00::/64").unwrap_err().to_string();
        assert_eq!(large, "--service-cidr: fd00::/64 must have a prefix of /108 to /120");
    }

    #[test]
    fn dual_stack_is_a_truth_or_a_word() {
        let read = |yaml: &str| serde_yaml::from_str::<Settings>(yaml).map(|settings| settings.dual_stack);
        assert_eq!(read("dualStack: true").unwrap(), Some(DualStack::On));
        assert_eq!(read("dualStack: false").unwrap(), Some(DualStack::Off));
        assert_eq!(read("dualStack: auto").unwrap(), Some(DualStack::Auto));
        assert!(read("dualStack: maybe").is_err());
    }
}

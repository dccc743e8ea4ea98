//! Seccomp profiles in JSON: the OCI runtime's form, and Docker's, which has conditions besides.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Error;
use super::convention::{self, COMPATIBLE, Convention, NATIVE};
use super::program::{Action, Comparison, Condition, Policy, Rule};

/// The policy of each convention that a profile covers, for a process with these capabilities.
///
/// Names of calls that a convention does not have are passed over, and so are unknown ones where nothing is lost by
/// it; but a profile that allows what it does not name must not lose a name that it denies.
pub fn policies(json: &str, capabilities: &[String]) -> Result<Vec<(u32, Policy)>, Error> {
    let profile: OciProfile = serde_json::from_str(json)?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let open = matches!(default.0, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG);
    let mut policies = Vec::new();
    for convention in [NATIVE, COMPATIBLE].iter().filter(|convention| profile.covers(convention)) {
        let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
        for entry in &profile.syscalls {
            let rules = entry.rules()?;
            let denies = rules.iter().any(|rule| rule.action != Action::ALLOW);
            let counts = entry.counts(convention, capabilities);
            for name in entry.names.iter().chain(&entry.name) {
                match (convention.number)(name) {
                    Some(number) if counts => calls.entry(number).or_default().extend(rules.iter().cloned()),
                    None if open && denies && !convention::is_known(name) => {
                        return Err(Error::Call(name.clone()));
                    }
                    _ => {}
                }
            }
        }
        policies.push((convention.audit, Policy { default, calls }));
    }
    Ok(policies)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<DockerArchitecture>,
    #[serde(default)]
    syscalls: Vec<OciEntry>,
}

/// An architecture with those that its kernels serve too.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerArchitecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciEntry {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<OciArgument>>,
    #[serde(default)]
    includes: DockerConditions,
    #[serde(default)]
    excludes: DockerConditions,
}

/// When an entry of a profile in Docker's form counts. (Kernels that minik runs on are new enough for any `minKernel`.)
#[derive(Default, Deserialize)]
struct DockerConditions {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

impl OciProfile {
    /// The processor's own convention always has rules; the 32-bit one when the profile names it.
    fn covers(&self, convention: &Convention) -> bool {
        let mapped = self
            .arch_map
            .iter()
            .filter(|entry| entry.architecture == NATIVE.oci)
            .flat_map(|entry| &entry.sub_architectures);
        convention.audit == NATIVE.audit
            || self.architectures.iter().chain(mapped).any(|name| name == convention.oci)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciArgument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

impl OciEntry {
    fn counts(&self, convention: &Convention, capabilities: &[String]) -> bool {
        let here = |name: &String| name == convention.docker;
        let OciEntry { includes, excludes, .. } = self;
        includes.caps.iter().all(|name| capabilities.contains(name))
            && (includes.arches.is_empty() || includes.arches.iter().any(here))
            && !excludes.caps.iter().any(|name| capabilities.contains(name))
            && !excludes.arches.iter().any(here)
    }

    /// Conditions on different arguments must all hold; several on one argument are alternatives (as runc does).
    fn rules(&self) -> Result<Vec<Rule>, Error> {
        let action = action(&self.action, self.errno_ret)?;
        let arguments = self.args.as_deref().unwrap_or_default();
        let conditions = arguments.iter().map(OciArgument::condition).collect::<Result<Vec<_>, _>>()?;
        let repeated = arguments
            .iter()
            .enumerate()
            .any(|(at, one)| arguments[..at].iter().any(|other| other.index == one.index));
        Ok(match repeated {
            true => {
                conditions.into_iter().map(|condition| Rule { conditions: vec![condition], action }).collect()
            }
            false => vec![Rule { conditions, action }],
        })
    }
}

impl OciArgument {
    fn condition(&self) -> Result<Condition, Error> {
        if self.index > 5 {
            return Err(Error::Argument(self.index));
        }
        let (comparison, value) = match self.op.as_str() {
            "SCMP_CMP_EQ" => (Comparison::Equal, self.value),
            "SCMP_CMP_NE" => (Comparison::NotEqual, self.value),
            "SCMP_CMP_LT" => (Comparison::Less, self.value),
            "SCMP_CMP_LE" => (Comparison::AtMost, self.value),
            "SCMP_CMP_GT" => (Comparison::Greater, self.value),
            "SCMP_CMP_GE" => (Comparison::AtLeast, self.value),
            "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual(self.value), self.value_two),
            other => return Err(Error::Operator(other.to_owned())),
        };
        Ok(Condition { argument: self.index, comparison, value, narrow: false })
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, Error> {
    let errno = errno.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA;
    Ok(Action(match name {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | errno,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        other => return Err(Error::Action(other.to_owned())),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers_of_each_convention_that_is_named() {
        let profile = |architectures: &str| {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO",{architectures}"syscalls":[
                {{"names":["chmod","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":2}},
                {{"names":["read","mkdirat"],"action":"SCMP_ACT_ALLOW"}},
                {{"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{{"index":0,"value":10,"op":"SCMP_CMP_EQ"}}]}}]}}"#
            );
            policies(&json, &[]).unwrap()
        };
        let native = format!(r#""architectures":["{}"],"#, NATIVE.oci);
        let both = format!(r#""architectures":["{}","{}","SCMP_ARCH_X32"],"#, NATIVE.oci, COMPATIBLE.oci);
        let mapped = format!(
            r#""archMap":[{{"architecture":"{}","subArchitectures":["{}"]}},{{"architecture":"SCMP_ARCH_S390X"}}],"#,
            NATIVE.oci, COMPATIBLE.oci
        );
        for (architectures, count) in [("", 1), (&native, 1), (&both, 2), (&mapped, 2)] {
            let policies = profile(architectures);
            assert_eq!(policies.len(), count, "{architectures}");
            for ((audit, policy), convention) in policies.iter().zip([NATIVE, COMPATIBLE]) {
                assert_eq!(*audit, convention.audit);
                let number = (convention.number)("mkdirat").unwrap();
                assert_eq!(policy.calls[&number], [Rule::always(Action::ALLOW)]);
            }
        }
    }

    #[test]
    fn denied_names_are_not_lost() {
        let profile = |default: &str, action: &str, name: &str| {
            let json = format!(
                r#"{{"defaultAction":"{default}","syscalls":[{{"names":["{name}"],"action":"{action}"}}]}}"#
            );
            policies(&json, &[])
        };
        let (allow, deny) = ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO");
        for name in ["cachestat", "statmount", "listmount", "setxattrat"] {
            assert_eq!(profile(allow, deny, name).unwrap()[0].1.calls.len(), 1, "{name}");
        }
        // Of other processors: nobody can call it here.
        assert!(profile(allow, deny, "s390_pci_mmio_read").unwrap()[0].1.calls.is_empty());
        assert!(profile(allow, deny, "mkdri").unwrap_err().to_string().contains("\"mkdri\""));
        assert!(profile(allow, allow, "mkdri").is_ok());
        assert!(profile(deny, "SCMP_ACT_KILL", "mkdri").is_ok());
    }

    #[test]
    fn conditions_of_dockers_form_count() {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {{"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{{"caps":["CAP_BPF"]}}}},
            {{"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{{"caps":["CAP_SYS_ADMIN"]}}}},
            {{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{{"arches":["{}"],"minKernel":"4.8"}}}},
            {{"names":["write"],"action":"SCMP_ACT_ALLOW","includes":{{"arches":["s390x"]}}}}]}}"#,
            NATIVE.docker
        );
        for (capabilities, expected) in [
            (&[][..], &["clone", "read"][..]),
            (&["CAP_BPF".to_owned()], &["bpf", "clone", "read"]),
            (&["CAP_SYS_ADMIN".to_owned(), "CAP_BPF".to_owned()], &["bpf", "read"]),
        ] {
            let policy = &policies(&json, capabilities).unwrap()[0].1;
            let mut numbers: Vec<u32> = expected.iter().map(|name| (NATIVE.number)(name).unwrap()).collect();
            numbers.sort_unstable();
            assert_eq!(policy.calls.keys().copied().collect::<Vec<_>>(), numbers, "{capabilities:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let argument = |index: u8, op: &str| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":{index},"value":1,"op":"{op}"}}]}}]}}"#
            )
        };
        for (bad, word) in [
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.to_owned(), "SCMP_ACT_NOTIFY"),
            ("{}".to_owned(), "defaultAction"),
            (argument(0, "X"), "X"),
            (argument(6, "SCMP_CMP_EQ"), "6"),
        ] {
            assert!(policies(&bad, &[]).unwrap_err().to_string().contains(word), "{bad}");
        }
    }
}

//! System-call filters: minik's default profile, and profiles in the OCI JSON form, compiled to BPF.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;

use self::program::{Action, Comparison, Condition, Policy, Rule};

mod calls;
mod program;

/// `CLONE_NEW*` of `clone(2)`: namespaces that a process without `CAP_SYS_ADMIN` may not make.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// The values of `personality(2)` that ordinary programs use, and "only tell me".
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];
/// `AF_VSOCK` would reach the hypervisor around every network policy.
const AF_VSOCK: u64 = 40;

/// A compiled program.
#[derive(Clone)]
pub struct Filter(Vec<libc::sock_filter>);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter of {} operations", self.0.len())
    }
}

/// Why a profile could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not JSON of the expected form.
    #[error("parsing seccomp profile: {0}")]
    Parse(#[from] serde_json::Error),
    /// It names an action that minik does not carry out.
    #[error("seccomp action {0} is not supported")]
    Action(String),
    /// It names a comparison that does not exist.
    #[error("seccomp operator {0} is not known")]
    Operator(String),
    /// It tests an argument that no call has.
    #[error("seccomp argument {0} does not exist")]
    Argument(u8),
    /// It does not fit a BPF program.
    #[error("seccomp profile is too long")]
    Length,
}

/// The default profile for a process that will hold these capabilities (`CAP_SYS_ADMIN`).
///
/// Known calls that are not allowed answer `EPERM`; calls newer than this list, and `clone3` (whose flags a filter
/// cannot see), answer `ENOSYS`, so that C libraries fall back to the older call.
pub fn compile_default(capabilities: &[String]) -> Result<Filter, Error> {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let refuse = || Rule::always(Action::errno(libc::EPERM));
    let mut known: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    let mut set = |calls: &[calls::Call], action: Action| {
        known.extend(calls.iter().map(|(_, number)| (*number as u32, vec![Rule::always(action)])));
    };
    set(calls::REFUSED, Action::errno(libc::EPERM));
    for (_, extra) in calls::WITH_CAPABILITY {
        set(extra, Action::errno(libc::EPERM));
    }
    for (_, extra) in calls::WITH_CAPABILITY.iter().filter(|(capability, _)| has(capability)) {
        set(extra, Action::ALLOW);
    }
    set(calls::ALLOWED, Action::ALLOW);
    set(calls::ALLOWED_LEGACY, Action::ALLOW);

    let allow_when = |comparison, value| {
        let condition = Condition { argument: 0, comparison, value, narrow: true };
        Rule { conditions: vec![condition], action: Action::ALLOW }
    };
    known.insert(libc::SYS_socket as u32, vec![allow_when(Comparison::NotEqual, AF_VSOCK), refuse()]);
    let mut personality: Vec<Rule> = PERSONALITIES.map(|value| allow_when(Comparison::Equal, value)).into();
    personality.push(refuse());
    known.insert(libc::SYS_personality as u32, personality);
    if has("CAP_SYS_ADMIN") {
        known.insert(libc::SYS_clone as u32, vec![Rule::always(Action::ALLOW)]);
        known.insert(libc::SYS_clone3 as u32, vec![Rule::always(Action::ALLOW)]);
    } else {
        let plain = allow_when(Comparison::MaskedEqual(NAMESPACE_FLAGS), 0);
        known.insert(libc::SYS_clone as u32, vec![plain, refuse()]);
    }
    compile(Policy { default: Action::errno(libc::ENOSYS), calls: known })
}

/// A profile in the OCI runtime form, as Kubernetes' `Localhost` profiles are. Names that this architecture does
/// not have are passed over, as libseccomp does.
pub fn compile_oci(json: &str) -> Result<Filter, Error> {
    let profile: OciProfile = serde_json::from_str(json)?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for entry in &profile.syscalls {
        let rules = entry.rules()?;
        for number in entry.names.iter().chain(&entry.name).filter_map(|name| number(name)) {
            calls.entry(number).or_default().extend(rules.iter().cloned());
        }
    }
    compile(Policy { default, calls })
}

fn compile(policy: Policy) -> Result<Filter, Error> {
    program::compile(&policy).map(Filter).ok_or(Error::Length)
}

/// Filters the calling thread from now on. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
pub fn install(filter: &Filter) -> io::Result<()> {
    let length = u16::try_from(filter.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.0.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which lives across the call and is not written to.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<OciEntry>,
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

fn number(name: &str) -> Option<u32> {
    let special = [
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("socket", libc::SYS_socket),
        ("personality", libc::SYS_personality),
    ];
    let groups = calls::WITH_CAPABILITY.iter().flat_map(|(_, calls)| calls.iter());
    let all = calls::ALLOWED
        .iter()
        .chain(calls::ALLOWED_LEGACY)
        .chain(calls::REFUSED)
        .chain(groups)
        .chain(&special);
    all.into_iter().find(|(known, _)| *known == name).map(|(_, number)| *number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_profile_is_short_and_grows_with_capabilities() {
        let plain = compile_default(&[]).unwrap().0;
        let admin = compile_default(&["CAP_SYS_ADMIN".into()]).unwrap().0;
        assert!(plain.len() < 400, "{}", plain.len());
        assert_ne!(plain, admin);
        assert_eq!(plain, compile_default(&["CAP_CHOWN".into()]).unwrap().0);
    }

    #[test]
    fn oci_profiles() {
        let mixed = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["chmod","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":2},
            {"names":["read"],"action":"SCMP_ACT_ALLOW"},
            {"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":0,"value":10,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert!(compile_oci(mixed).unwrap().0.len() > 10);
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
            assert!(compile_oci(&bad).unwrap_err().to_string().contains(word), "{bad}");
        }
    }
}

//! System-call filters: minik's default profile, and profiles in the OCI JSON form, compiled to BPF.

use std::collections::BTreeMap;
use std::io;

use self::convention::{COMPATIBLE, Convention, NATIVE};
use self::program::{Action, Comparison, Condition, Policy, Rule};

mod calls;
mod convention;
mod profile;
mod program;

/// `CLONE_NEW*` of `clone(2)`: namespaces that a process without `CAP_SYS_ADMIN` may not make.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// The values of `personality(2)` that ordinary programs use, and "only tell me".
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];
/// Families of sockets that no container gets (as in containerd): `AF_ALG`, the kernel's ciphers, which programs have of
/// their own and attackers had use for (CVE-2026-31431); `AF_VSOCK`, which would reach the hypervisor around every network
/// policy. A 32-bit program can still have them by `socketcall`, whose arguments are out of a filter's sight; without that
/// call, C libraries as distributions build them for 32-bit programs have no sockets at all.
const REFUSED_FAMILIES: [u64; 2] = [38, 40];

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
    /// It keeps programs from a call of which minik does not know what it is.
    #[error("seccomp profile denies system call {0:?}, which is not known: the rule would be lost")]
    Call(String),
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
    compile(&[NATIVE, COMPATIBLE].map(|convention| (convention.audit, default(&convention, capabilities))))
}

fn default(convention: &Convention, capabilities: &[String]) -> Policy {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let refuse = || Rule::always(Action::errno(libc::EPERM));
    let mut known: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    let mut set = |calls: &[&str], rules: Vec<Rule>| {
        let numbers = calls.iter().filter_map(|name| (convention.number)(name));
        known.extend(numbers.map(|number| (number, rules.clone())));
    };
    set(calls::REFUSED, vec![refuse()]);
    for (_, extra) in calls::WITH_CAPABILITY {
        set(extra, vec![refuse()]);
    }
    let allow = || vec![Rule::always(Action::ALLOW)];
    for (_, extra) in calls::WITH_CAPABILITY.iter().filter(|(capability, _)| has(capability)) {
        set(extra, allow());
    }
    set(calls::ALLOWED, allow());
    set(calls::ALLOWED_LEGACY, allow());
    if convention.audit == COMPATIBLE.audit {
        set(calls::ALLOWED_32_BIT, allow());
    }

    let first_is = |comparison, value| vec![Condition { argument: 0, comparison, value, narrow: true }];
    let allow_when =
        |comparison, value| Rule { conditions: first_is(comparison, value), action: Action::ALLOW };
    let mut families: Vec<Rule> = REFUSED_FAMILIES
        .map(|family| Rule { conditions: first_is(Comparison::Equal, family), ..refuse() })
        .into();
    families.extend(allow());
    set(&["socket"], families);
    let mut personality: Vec<Rule> = PERSONALITIES.map(|value| allow_when(Comparison::Equal, value)).into();
    personality.push(refuse());
    set(&["personality"], personality);
    if has("CAP_SYS_ADMIN") {
        set(&["clone", "clone3"], allow());
    } else {
        set(&["clone"], vec![allow_when(Comparison::MaskedEqual(NAMESPACE_FLAGS), 0), refuse()]);
    }
    Policy { default: Action::errno(libc::ENOSYS), calls: known }
}

/// A profile in the OCI runtime form, as Kubernetes' `Localhost` profiles are, or in Docker's, whose conditions on
/// `capabilities` and architectures count. Programs of the architectures that it does not name are ended.
pub fn compile_oci(json: &str, capabilities: &[String]) -> Result<Filter, Error> {
    compile(&profile::policies(json, capabilities)?)
}

fn compile(policies: &[(u32, Policy)]) -> Result<Filter, Error> {
    program::compile(policies).map(Filter).ok_or(Error::Length)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_profile_is_short_and_grows_with_capabilities() {
        let plain = compile_default(&[]).unwrap().0;
        let admin = compile_default(&["CAP_SYS_ADMIN".into()]).unwrap().0;
        assert!(plain.len() < 800, "{}", plain.len());
        assert_ne!(plain, admin);
        assert_eq!(plain, compile_default(&["CAP_CHOWN".into()]).unwrap().0);
    }

    #[test]
    fn every_name_in_the_lists_is_a_call() {
        let groups = calls::WITH_CAPABILITY.iter().flat_map(|(_, calls)| calls.iter());
        let plain = [calls::ALLOWED, calls::ALLOWED_LEGACY, calls::ALLOWED_32_BIT, calls::REFUSED];
        for name in plain.into_iter().flatten().chain(groups) {
            assert!(convention::is_known(name), "{name}");
        }
    }

    #[test]
    fn the_default_profile_is_one_for_both_conventions() {
        for convention in [NATIVE, COMPATIBLE] {
            let policy = default(&convention, &[]);
            let rules = |name: &str| policy.calls.get(&(convention.number)(name).unwrap());
            assert_eq!(rules("read").unwrap(), &[Rule::always(Action::ALLOW)]);
            assert_eq!(rules("mount").unwrap(), &[Rule::always(Action::errno(libc::EPERM))]);
            let [alg, vsock, others] = &rules("socket").unwrap()[..] else { panic!("{convention:?}") };
            for (rule, family) in [(alg, libc::AF_ALG), (vsock, libc::AF_VSOCK)] {
                assert_eq!(
                    (rule.conditions[0].value, rule.action),
                    (family as u64, Action::errno(libc::EPERM))
                );
            }
            assert_eq!(others, &Rule::always(Action::ALLOW));
            assert_eq!(rules("clone").unwrap().len(), 2);
            assert_eq!(rules("clone3"), None);
        }
    }
}

//! What must be left of a node's resources: signals, thresholds, and the conditions that tell when too little is (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::quantity::{self, Quantity};

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that nobody needs.
    Memory,
    /// Bytes that are free where pods' files are.
    NodeFs,
    /// Inodes that are free there.
    NodeFsInodes,
    /// Bytes that are free where images are.
    ImageFs,
    /// Inodes that are free there.
    ImageFsInodes,
    /// Processes that may yet be.
    Pid,
}

/// By the names that Kubernetes gives them.
const SIGNALS: [(&str, Signal); 6] = [
    ("memory.available", Signal::Memory),
    ("nodefs.available", Signal::NodeFs),
    ("nodefs.inodesFree", Signal::NodeFsInodes),
    ("imagefs.available", Signal::ImageFs),
    ("imagefs.inodesFree", Signal::ImageFsInodes),
    ("pid.available", Signal::Pid),
];

impl Signal {
    /// As thresholds name it.
    pub fn name(self) -> &'static str {
        SIGNALS.iter().find(|(_, signal)| *signal == self).map_or("", |(name, _)| name)
    }

    /// What of the node's object tells of it.
    pub fn condition(self) -> Condition {
        match self {
            Signal::Memory => Condition::MemoryPressure,
            Signal::Pid => Condition::PidPressure,
            _ => Condition::DiskPressure,
        }
    }

    /// What becomes short.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeFsInodes | Signal::ImageFsInodes => "inodes",
            Signal::Pid => "pids",
        }
    }

    /// An amount of it as messages have it.
    pub fn amount(self, amount: u64) -> Quantity {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        match self {
            Signal::Memory | Signal::NodeFs | Signal::ImageFs => Quantity::bytes(amount),
            _ => Quantity::units(amount),
        }
    }

    /// How much of it may be gone a second later, at worst. Memory goes faster, but then the kernel tells of stalls.
    fn rate(self) -> u64 {
        match self {
            Signal::Memory => 64 << 20,
            Signal::NodeFs | Signal::ImageFs => 256 << 20,
            Signal::NodeFsInodes | Signal::ImageFsInodes => 20_000,
            Signal::Pid => 200,
        }
    }
}

/// A condition of the node that keeps pods away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Too little memory.
    MemoryPressure,
    /// Too little disk.
    DiskPressure,
    /// Too few processes.
    PidPressure,
}

impl Condition {
    /// All of them.
    pub const ALL: [Condition; 3] =
        [Condition::MemoryPressure, Condition::DiskPressure, Condition::PidPressure];

    /// Its type in the node's status.
    pub fn name(self) -> &'static str {
        match self {
            Condition::MemoryPressure => "MemoryPressure",
            Condition::DiskPressure => "DiskPressure",
            Condition::PidPressure => "PIDPressure",
        }
    }

    /// Reason and message with which it holds or not, and the reason of the event that tells of the change.
    pub fn words(self, holds: bool) -> (&'static str, &'static str, &'static str) {
        match (self, holds) {
            (Condition::MemoryPressure, true) => (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
                "NodeHasInsufficientMemory",
            ),
            (Condition::MemoryPressure, false) => (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
                "NodeHasSufficientMemory",
            ),
            (Condition::DiskPressure, true) => {
                ("KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure")
            }
            (Condition::DiskPressure, false) => {
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure")
            }
            (Condition::PidPressure, true) => (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
                "NodeHasInsufficientPID",
            ),
            (Condition::PidPressure, false) => {
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID")
            }
        }
    }
}

/// What is there of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// So much is left.
    pub available: u64,
    /// Of so much.
    pub capacity: u64,
}

/// What is there of everything that could be measured.
pub type Levels = BTreeMap<Signal, Level>;

/// How much must be left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Least {
    /// So much.
    Amount(Quantity),
    /// This part of all there is.
    Share(f64),
    /// The same, but no more than so much.
    ShareUpTo(f64, u64),
}

/// What must be left of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// How much.
    pub least: Least,
    /// How long less may be left before pods go; a soft threshold has some such time, a hard one none.
    pub grace: Duration,
}

impl Threshold {
    /// Whether pods go as soon as it is met.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// How much that is.
    pub fn amount(&self, capacity: u64) -> Quantity {
        let share = |share: f64| (capacity as f64 * share) as u64;
        match self.least {
            Least::Amount(quantity) => quantity,
            Least::Share(part) => self.signal.amount(share(part)),
            Least::ShareUpTo(part, most) => self.signal.amount(share(part).min(most)),
        }
    }

    fn least(&self, level: Level) -> u64 {
        u64::try_from(self.amount(level.capacity).value()).unwrap_or(0)
    }

    /// What is left beyond it; nothing when too little is left.
    fn beyond(&self, level: Level) -> Option<u64> {
        level.available.checked_sub(self.least(level))
    }

    /// Whether less than half of what must be left is.
    pub fn is_grave(&self, level: Level) -> bool {
        level.available < self.least(level) / 2
    }
}

/// What is demanded of a large disk whatever its size: a node whose user has the rest of the machine would otherwise
/// be out of service for want of what no pod needs.
const DISK_MAX: u64 = 1 << 30;

/// The thresholds of those who set none: Kubernetes' own.
pub fn usual() -> Vec<Threshold> {
    let memory = Least::Amount(Quantity::bytes(100 << 20));
    [
        (Signal::Memory, memory),
        (Signal::NodeFs, Least::ShareUpTo(0.10, DISK_MAX)),
        (Signal::NodeFsInodes, Least::Share(0.05)),
        (Signal::ImageFs, Least::ShareUpTo(0.15, DISK_MAX)),
        (Signal::ImageFsInodes, Least::Share(0.05)),
    ]
    .map(|(signal, least)| Threshold { signal, least, grace: Duration::ZERO })
    .into()
}

/// Reads thresholds by signal, as kubelet's `evictionHard` has them.
pub fn parse(statements: &BTreeMap<String, String>) -> Result<Vec<Threshold>, String> {
    let parsed = statements.iter().map(|(name, least)| parse_one(name, least));
    parsed.filter_map(Result::transpose).collect()
}

/// Reads soft thresholds by signal, as kubelet's `evictionSoft` has them, each with its time of `evictionSoftGracePeriod`.
pub fn parse_soft(
    statements: &BTreeMap<String, String>,
    graces: &BTreeMap<String, Duration>,
) -> Result<Vec<Threshold>, String> {
    for name in graces.keys() {
        signal(name)?;
    }
    let graceful = |threshold: Threshold| {
        let name = threshold.signal.name();
        let grace = graces.get(name).copied();
        let missing = || format!("grace period must be specified for the soft eviction threshold {name}");
        Ok(Threshold { grace: grace.ok_or_else(missing)?, ..threshold })
    };
    parse(statements)?.into_iter().map(graceful).collect()
}

fn signal(name: &str) -> Result<Signal, String> {
    let known = SIGNALS.iter().find(|(known, _)| *known == name);
    known.map(|(_, signal)| *signal).ok_or_else(|| format!("unsupported eviction signal {name}"))
}

fn parse_one(name: &str, least: &str) -> Result<Option<Threshold>, String> {
    let signal = signal(name)?;
    let least = match least.strip_suffix('%') {
        // These are how a threshold is taken away.
        Some("0" | "100") => return Ok(None),
        Some(percent) => match percent.parse::<f64>() {
            Ok(percent) if percent < 0.0 => {
                return Err(format!("eviction percentage threshold {name} must be >= 0%: {least}"));
            }
            Ok(percent) if percent <= 100.0 => Least::Share(percent / 100.0),
            Ok(_) => return Err(format!("eviction percentage threshold {name} must be <= 100%: {least}")),
            Err(error) => return Err(format!("eviction percentage threshold {name}: {least:?}: {error}")),
        },
        None => match quantity::parse(least) {
            Ok(amount) if amount.is_zero() || amount.is_negative() => {
                return Err(format!("eviction threshold {name} must be positive: {amount}"));
            }
            Ok(amount) => Least::Amount(amount),
            Err(error) => return Err(format!("eviction threshold {name}: {least:?}: {error}")),
        },
    };
    Ok(Some(Threshold { signal, least, grace: Duration::ZERO }))
}

/// Reads thresholds as kubelet's flag `--eviction-hard` has them: `memory.available<100Mi,nodefs.available<10%`.
pub fn statements(text: &str) -> Result<BTreeMap<String, String>, String> {
    let all = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| match pair.split_once('<') {
        Some((name, least)) => Ok((name.trim().to_owned(), least.trim().to_owned())),
        None => Err(format!("{pair:?} must be SIGNAL<AMOUNT")),
    };
    all.map(pair).collect()
}

/// The thresholds that are met, in the order in which something is done about them: memory comes first, and of one signal
/// the hard threshold.
pub fn met(thresholds: &[Threshold], levels: &Levels) -> Vec<Threshold> {
    let short = |threshold: &&Threshold| {
        levels.get(&threshold.signal).is_some_and(|level| threshold.beyond(*level).is_none())
    };
    let mut met: Vec<Threshold> = thresholds.iter().filter(short).copied().collect();
    met.sort_by_key(|threshold| (threshold.signal, threshold.grace));
    met
}

/// Kubelet's eviction monitoring period.
const SHORTEST: Duration = Duration::from_secs(10);
/// However much is left.
const LONGEST: Duration = Duration::from_secs(300);

/// How long nobody need look: until the first threshold could be met, at worst.
pub fn pause(thresholds: &[Threshold], levels: &Levels) -> Duration {
    let left = thresholds.iter().filter_map(|threshold| {
        let beyond = threshold.beyond(*levels.get(&threshold.signal)?).unwrap_or(0);
        Some(Duration::from_secs(beyond / threshold.signal.rate()))
    });
    left.min().unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
}

/// When the conditions of a node were last seen to hold.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<Condition, Instant>);

impl Seen {
    /// Takes what holds at this moment; answers what the node shows: a condition stays for a while, lest it come and go
    /// with every pod.
    pub fn take(&mut self, met: &[Threshold], now: Instant, stays: Duration) -> BTreeSet<Condition> {
        self.0.extend(met.iter().map(|threshold| (threshold.signal.condition(), now)));
        self.0.retain(|_, at| *at == now || now.duration_since(*at) < stays);
        self.0.keys().copied().collect()
    }
}

/// Since when thresholds have been met without a break.
#[derive(Debug, Default)]
pub struct Since(BTreeMap<(Signal, Duration), Instant>);

impl Since {
    /// Takes the thresholds that are met at this moment; answers those of them that have been for as long as they may.
    pub fn take(&mut self, met: &[Threshold], now: Instant) -> Vec<Threshold> {
        let key = |threshold: &Threshold| (threshold.signal, threshold.grace);
        self.0.retain(|known, _| met.iter().any(|threshold| key(threshold) == *known));
        let mut due = met.to_vec();
        due.retain(|threshold| {
            let since = *self.0.entry(key(threshold)).or_insert(now);
            now.duration_since(since) >= threshold.grace
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Threshold>, String> {
        parse(&statements(text)?)
    }

    #[test]
    fn thresholds_are_read_as_kubelet_reads_them() {
        let least =
            |text: &str| parsed(text).map(|all| all.iter().map(|t| t.amount(1000).to_string()).collect());
        for (text, expected) in [
            ("memory.available<100Mi, nodefs.available<10%", Ok(vec!["100Mi".to_owned(), "100".to_owned()])),
            ("nodefs.available<0%,imagefs.available<100%", Ok(vec![])),
            ("", Ok(vec![])),
            ("pid.available<5k", Ok(vec!["5k".to_owned()])),
            ("disk<1Gi", Err("unsupported eviction signal disk".to_owned())),
            (
                "nodefs.available<-1%",
                Err("eviction percentage threshold nodefs.available must be >= 0%: -1%".into()),
            ),
            (
                "nodefs.available<101%",
                Err("eviction percentage threshold nodefs.available must be <= 100%: 101%".into()),
            ),
            ("memory.available<0", Err("eviction threshold memory.available must be positive: 0".into())),
            ("memory.available", Err("\"memory.available\" must be SIGNAL<AMOUNT".into())),
        ] {
            assert_eq!(least(text), expected, "{text}");
        }
        assert!(parsed("memory.available<much").unwrap_err().contains("memory.available"));
    }

    #[test]
    fn too_little_is_less_than_what_must_be_left() {
        let gib = 1 << 30;
        let level = |available: u64, capacity: u64| Level { available, capacity };
        for (case, levels, expected) in [
            ("nothing is known", Levels::new(), vec![]),
            ("enough", Levels::from([(Signal::NodeFs, level(10 * gib, 100 * gib))]), vec![]),
            (
                "a tenth of a small disk",
                Levels::from([(Signal::NodeFs, level(gib - 1, 10 * gib))]),
                vec![Signal::NodeFs],
            ),
            ("a tenth of a large disk", Levels::from([(Signal::NodeFs, level(6 * gib, 1000 * gib))]), vec![]),
            (
                "next to nothing of it",
                Levels::from([(Signal::ImageFs, level(gib / 2, 1000 * gib))]),
                vec![Signal::ImageFs],
            ),
            (
                "memory comes first",
                Levels::from([(Signal::NodeFsInodes, level(4, 100)), (Signal::Memory, level(99 << 20, gib))]),
                vec![Signal::Memory, Signal::NodeFsInodes],
            ),
        ] {
            let met: Vec<Signal> = met(&usual(), &levels).iter().map(|t| t.signal).collect();
            assert_eq!(met, expected, "{case}");
        }
    }

    #[test]
    fn less_than_half_of_what_must_be_left_is_grave() {
        let threshold = parsed("nodefs.available<10%").unwrap()[0];
        assert_eq!(threshold.signal.name(), "nodefs.available");
        for (available, expected) in [(0, true), (49, true), (50, false), (99, false), (1000, false)] {
            assert_eq!(threshold.is_grave(Level { available, capacity: 1000 }), expected, "{available}");
        }
    }

    #[test]
    fn the_more_is_left_the_longer_nobody_looks() {
        let thresholds = parsed("memory.available<100Mi,pid.available<1000").unwrap();
        for (memory, pids, expected) in [
            (50 << 20, 1 << 20, 10),
            (100 << 20, 1 << 20, 10),
            (1380 << 20, 1 << 20, 20),
            (64 << 30, 9000, 40),
            (64 << 30, 1 << 20, 300),
        ] {
            let levels = Levels::from([
                (Signal::Memory, Level { available: memory, capacity: 64 << 30 }),
                (Signal::Pid, Level { available: pids, capacity: 1 << 22 }),
            ]);
            assert_eq!(pause(&thresholds, &levels).as_secs(), expected, "{memory} {pids}");
        }
        assert_eq!(pause(&thresholds, &Levels::new()), LONGEST);
    }

    #[test]
    fn a_condition_stays_for_a_while() {
        let (mut seen, start, stays) = (Seen::default(), Instant::now(), Duration::from_secs(300));
        let disk = parsed("nodefs.available<10%").unwrap();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for (second, met, holds) in [
            (0, &[][..], false),
            (10, &disk[..], true),
            (20, &[], true),
            (309, &[], true),
            (310, &[], false),
            (311, &disk, true),
        ] {
            let expected: BTreeSet<Condition> =
                holds.then_some(Condition::DiskPressure).into_iter().collect();
            assert_eq!(seen.take(met, at(second), stays), expected, "{second}");
        }
        assert_eq!(Seen::default().take(&disk, start, Duration::ZERO).len(), 1);
    }

    #[test]
    fn soft_thresholds_have_a_time_each() {
        let soft = |text: &str, graces: &[(&str, u64)]| {
            let graces =
                graces.iter().map(|(name, seconds)| ((*name).to_owned(), Duration::from_secs(*seconds)));
            parse_soft(&statements(text).unwrap(), &graces.collect())
        };
        let memory =
            soft("memory.available<200Mi", &[("memory.available", 90), ("nodefs.available", 5)]).unwrap();
        assert_eq!((memory.len(), memory[0].grace.as_secs(), memory[0].is_hard()), (1, 90, false));
        assert!(usual().iter().all(Threshold::is_hard));
        let missing = "grace period must be specified for the soft eviction threshold memory.available";
        assert_eq!(soft("memory.available<200Mi", &[]).unwrap_err(), missing);
        assert_eq!(soft("", &[("disk", 1)]).unwrap_err(), "unsupported eviction signal disk");
        assert_eq!(soft("nodefs.available<0%", &[]), Ok(vec![]));
    }

    #[test]
    fn a_soft_threshold_must_be_met_for_its_time_without_a_break() {
        let hard = parsed("memory.available<100Mi").unwrap()[0];
        let soft = Threshold { grace: Duration::from_secs(60), ..parsed("memory.available<1Gi").unwrap()[0] };
        let (mut since, start) = (Since::default(), Instant::now());
        for (second, met, expected) in [
            (0, &[soft][..], &[][..]),
            (59, &[soft], &[]),
            (60, &[soft], &[soft]),
            (61, &[], &[]),
            (62, &[soft], &[]),
            (100, &[hard, soft], &[hard]),
            (122, &[hard, soft], &[hard, soft]),
        ] {
            assert_eq!(since.take(met, start + Duration::from_secs(second)), expected, "{second}");
        }
        let levels = Levels::from([(Signal::Memory, Level { available: 0, capacity: 1 << 30 })]);
        assert_eq!(met(&[soft, hard], &levels), [hard, soft]);
    }
}

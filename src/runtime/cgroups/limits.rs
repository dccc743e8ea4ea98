//! Which file gets which value for given limits, on either cgroup version.

use super::Controller;
use crate::runtime::Resources;

/// The accounting period of CPU quotas in microseconds, the kernel's and Kubernetes' default.
const PERIOD: u64 = 100_000;

/// One value to write.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whose hierarchy (version 1).
    pub controller: Controller,
    /// In the group's directory.
    pub file: &'static str,
    /// What to write.
    pub value: String,
    /// A kernel that refuses it is left in peace.
    pub optional: bool,
}

/// The values for these limits, in the order in which they must be written.
pub fn plan(resources: &Resources, unified: bool) -> Vec<Setting> {
    use Controller::{Cpu, Memory, Pids};
    let mut plan = Vec::new();
    let mut set =
        |controller, file, value: String, optional| plan.push(Setting { controller, file, value, optional });
    if let Some(shares) = resources.cpu_shares {
        match unified {
            true => set(Cpu, "cpu.weight", weight(shares).to_string(), false),
            false => set(Cpu, "cpu.shares", shares.max(2).to_string(), false),
        }
    }
    if let Some(quota) = resources.cpu_quota {
        if unified {
            set(Cpu, "cpu.max", format!("{quota} {PERIOD}"), false);
        } else {
            set(Cpu, "cpu.cfs_period_us", PERIOD.to_string(), false);
            set(Cpu, "cpu.cfs_quota_us", quota.to_string(), false);
        }
    }
    if let Some(limit) = resources.memory_limit {
        if unified {
            set(Memory, "memory.max", limit.to_string(), false);
            // As the kubelet does: no swap beyond the limit.
            set(Memory, "memory.swap.max", "0".into(), true);
        } else {
            set(Memory, "memory.limit_in_bytes", limit.to_string(), false);
            set(Memory, "memory.memsw.limit_in_bytes", limit.to_string(), true);
        }
    }
    if let Some(limit) = resources.pids_limit {
        set(Pids, "pids.max", limit.to_string(), false);
    }
    plan
}

/// cgroup v1's shares (2..=262144) as a v2 weight (1..=10000), on a curve on which one default (1024) is the other
/// (100): `10^(l²/612 + 125·l/612 - 7/34)`, `l` the shares' binary logarithm, rounded up. It is what runc 1.3.2 and
/// crun 1.23 have in place of the linear conversion (`ConvertCPUSharesToCgroupV2Value` of opencontainers/cgroups).
pub fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        for (shares, expected) in
            [(0, 1), (2, 1), (102, 17), (1024, 100), (262_143, 10_000), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn files_by_version() {
        let resources = Resources {
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            memory_limit: Some(1 << 20),
            pids_limit: Some(64),
        };
        let lines = |unified| {
            plan(&resources, unified)
                .into_iter()
                .map(|s| format!("{}={}", s.file, s.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            lines(true),
            [
                "cpu.weight=59",
                "cpu.max=50000 100000",
                "memory.max=1048576",
                "memory.swap.max=0",
                "pids.max=64"
            ]
        );
        assert_eq!(
            lines(false),
            [
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=1048576",
                "pids.max=64"
            ]
        );
        assert!(plan(&Resources::default(), true).is_empty());
    }
}

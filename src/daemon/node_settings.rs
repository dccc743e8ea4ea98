//! What a user may set for the node: a part of Kubernetes' `KubeletConfiguration`, under the same names.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::settings::Error;
use crate::api::cel::parse_duration;
use crate::kubelet::eviction::{self, thresholds};
use crate::kubelet::node::MAX_PODS;

/// What a user may set; absent fields are the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeSettings {
    /// What must be left, by signal: `memory.available: 100Mi`. Instead of all defaults; `0%` takes one away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_hard: Option<BTreeMap<String, String>>,
    /// What should be left, by signal; where less is for as long as `evictionSoftGracePeriod` says, pods go as well, but
    /// have time to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_soft: Option<BTreeMap<String, String>>,
    /// How long less may be left than `evictionSoft` says, by signal: `memory.available: 1m30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_soft_grace_period: Option<BTreeMap<String, String>>,
    /// How many seconds such pods have at most to end (default: 0, which is as good as at once).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_max_pod_grace_period: Option<u32>,
    /// How long a condition of the node stays after it was last seen (default: 5m).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_pressure_transition_period: Option<String>,
    /// From so many percent of the disk on, unused images go (default: 85); 100 is never.
    #[serde(rename = "imageGCHighThresholdPercent", skip_serializing_if = "Option::is_none")]
    pub image_gc_high: Option<u8>,
    /// Until so many percent of it are used (default: 80).
    #[serde(rename = "imageGCLowThresholdPercent", skip_serializing_if = "Option::is_none")]
    pub image_gc_low: Option<u8>,
    /// How long nobody must have used an image that goes (default: 2m).
    #[serde(rename = "imageMinimumGCAge", skip_serializing_if = "Option::is_none")]
    pub image_minimum_gc_age: Option<String>,
    /// How many pods the node takes (default: 110).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pods: Option<u32>,
}

impl NodeSettings {
    /// What flags say: thresholds as kubelet's `--eviction-hard` has them, and its `--max-pods`.
    pub fn of_flags(eviction_hard: Option<&str>, max_pods: Option<u32>) -> Result<NodeSettings, Error> {
        let hard = eviction_hard.map(thresholds::statements).transpose();
        let hard = hard.map_err(|message| Error::Value { field: "--eviction-hard", message })?;
        Ok(NodeSettings { eviction_hard: hard, max_pods, ..NodeSettings::default() })
    }

    /// These settings where they say something, `below` where they do not.
    pub fn over(self, below: NodeSettings) -> NodeSettings {
        NodeSettings {
            eviction_hard: self.eviction_hard.or(below.eviction_hard),
            eviction_soft: self.eviction_soft.or(below.eviction_soft),
            eviction_soft_grace_period: self.eviction_soft_grace_period.or(below.eviction_soft_grace_period),
            eviction_max_pod_grace_period: self
                .eviction_max_pod_grace_period
                .or(below.eviction_max_pod_grace_period),
            eviction_pressure_transition_period: self
                .eviction_pressure_transition_period
                .or(below.eviction_pressure_transition_period),
            image_gc_high: self.image_gc_high.or(below.image_gc_high),
            image_gc_low: self.image_gc_low.or(below.image_gc_low),
            image_minimum_gc_age: self.image_minimum_gc_age.or(below.image_minimum_gc_age),
            max_pods: self.max_pods.or(below.max_pods),
        }
    }

    /// How many pods the node takes.
    pub fn max_pods(&self) -> u32 {
        self.max_pods.unwrap_or(MAX_PODS)
    }

    /// When the node runs short, by these settings.
    pub fn eviction(&self) -> Result<eviction::Settings, Error> {
        let mut settings = eviction::Settings::default();
        let wrong = |field| move |message| Error::Value { field, message };
        if let Some(hard) = &self.eviction_hard {
            settings.thresholds = thresholds::parse(hard).map_err(wrong("evictionHard"))?;
        }
        if self.eviction_soft.is_some() || self.eviction_soft_grace_period.is_some() {
            let graces = self.eviction_soft_grace_period.iter().flatten();
            let graces = graces
                .map(|(name, text)| Ok((name.clone(), duration("evictionSoftGracePeriod", text)?)))
                .collect::<Result<_, Error>>()?;
            let soft = self.eviction_soft.clone().unwrap_or_default();
            settings
                .thresholds
                .extend(thresholds::parse_soft(&soft, &graces).map_err(wrong("evictionSoft"))?);
        }
        settings.pod_grace = Duration::from_secs(self.eviction_max_pod_grace_period.unwrap_or(0).into());
        if let Some(text) = &self.eviction_pressure_transition_period {
            settings.stays = duration("evictionPressureTransitionPeriod", text)?;
        }
        if let Some(text) = &self.image_minimum_gc_age {
            settings.images.age = duration("imageMinimumGCAge", text)?;
        }
        let images = &mut settings.images;
        images.high = self.image_gc_high.unwrap_or(images.high);
        images.low = self.image_gc_low.unwrap_or(images.low);
        if self.image_gc_high.is_some() || self.image_gc_low.is_some() {
            images.enough = None;
        }
        if images.high > 100 {
            let message = format!("{} must be between 0 and 100, inclusive", images.high);
            return Err(wrong("imageGCHighThresholdPercent")(message));
        }
        if images.low >= images.high {
            let message =
                format!("{} must be less than imageGCHighThresholdPercent, {}", images.low, images.high);
            return Err(wrong("imageGCLowThresholdPercent")(message));
        }
        Ok(settings)
    }
}

fn duration(field: &'static str, text: &str) -> Result<Duration, Error> {
    let nanos = parse_duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| Error::Value {
        field,
        message: format!("{text:?} is not a duration such as 5m or 30s"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eviction(text: &str) -> Result<eviction::Settings, String> {
        let settings: NodeSettings = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        settings.eviction().map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_those_of_a_kubelet() {
        assert_eq!(eviction("{}").unwrap(), eviction::Settings::default());
        let own = eviction(
            "evictionHard: {nodefs.available: 1Gi}\nevictionPressureTransitionPeriod: 30s\n\
             imageGCHighThresholdPercent: 90\nimageMinimumGCAge: 1m30s",
        )
        .unwrap();
        assert_eq!((own.thresholds.len(), own.stays.as_secs()), (1, 30));
        assert_eq!((own.images.high, own.images.low, own.images.age.as_secs()), (90, 80, 90));
        assert_eq!(own.images.enough, None, "who sets a mark means it");
        let soft = eviction(
            "evictionSoft: {memory.available: 1Gi}\nevictionSoftGracePeriod: {memory.available: 1m30s}\n\
             evictionMaxPodGracePeriod: 20",
        )
        .unwrap();
        let last = soft.thresholds.last().unwrap();
        assert_eq!((last.grace.as_secs(), soft.pod_grace.as_secs()), (90, 20));
        assert_eq!(soft.thresholds.len(), eviction::Settings::default().thresholds.len() + 1);
        for (text, error) in [
            ("evictionHard: {disk: 1Gi}", "evictionHard: unsupported eviction signal disk"),
            ("imageMinimumGCAge: soon", "imageMinimumGCAge: \"soon\" is not a duration"),
            ("imageGCHighThresholdPercent: 101", "101 must be between 0 and 100"),
            ("imageGCHighThresholdPercent: 70", "80 must be less than imageGCHighThresholdPercent, 70"),
            (
                "evictionSoft: {memory.available: 1Gi}",
                "evictionSoft: grace period must be specified for the soft eviction threshold memory.available",
            ),
            ("evictionSoftGracePeriod: {memory.available: long}", "\"long\" is not a duration"),
            ("evictionMaxPodGracePeriod: -1", "evictionMaxPodGracePeriod"),
            ("evictionMinimumReclaim: {}", "unknown field"),
        ] {
            let told = eviction(text).unwrap_err();
            assert!(told.contains(error), "{text}: {told}");
        }
    }

    #[test]
    fn later_settings_win() {
        let below =
            NodeSettings { image_gc_high: Some(70), image_gc_low: Some(60), ..NodeSettings::default() };
        let own = NodeSettings { image_gc_high: Some(90), max_pods: Some(250), ..NodeSettings::default() };
        assert_eq!(below.max_pods(), 110);
        let both = own.over(below);
        assert_eq!(both.max_pods(), 250);
        assert_eq!((both.image_gc_high, both.image_gc_low), (Some(90), Some(60)));
    }
}

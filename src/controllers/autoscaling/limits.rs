//! How fast a number of pods may change (Kubernetes `pkg/controller/podautoscaler/horizontal.go`). Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How long a higher recommendation holds where nothing else is said (`--horizontal-pod-autoscaler-downscale-stabilization`).
const DOWNSCALE_SECONDS: i32 = 300;

/// What was recommended and done for an autoscaler lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// Recommendations and their times.
    recommended: Vec<(Timestamp, i32)>,
    /// By how many pods it was made larger, and when.
    up: Vec<(Timestamp, i32)>,
    /// By how many smaller.
    down: Vec<(Timestamp, i32)>,
}

/// What limits a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) least: i32,
    pub(super) most: i32,
    pub(super) behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
}

/// A reason and its message, as a condition bears them.
pub(super) type Reason = (&'static str, &'static str);

/// How many pods there are to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) replicas: i32,
    /// Whether it can be scaled, and why.
    pub(super) able: Reason,
    /// Why it is limited, or not.
    pub(super) limit: Reason,
    /// Whether it is.
    pub(super) limited: bool,
}

/// The rules of one direction, with defaults.
struct Rules {
    window: i32,
    select: String,
    policies: Vec<HPAScalingPolicy>,
}

fn policy(kind: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds: 15 }
}

fn rules(given: Option<&HPAScalingRules>, window: i32, policies: Vec<HPAScalingPolicy>) -> Rules {
    let own = given.and_then(|rules| rules.policies.clone()).filter(|policies| !policies.is_empty());
    Rules {
        window: given.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(window),
        select: given.and_then(|rules| rules.select_policy.clone()).unwrap_or_else(|| "Max".to_owned()),
        policies: own.unwrap_or(policies),
    }
}

impl Rules {
    fn up(behavior: &HorizontalPodAutoscalerBehavior) -> Rules {
        rules(behavior.scale_up.as_ref(), 0, vec![policy("Pods", 4), policy("Percent", 100)])
    }

    fn down(behavior: &HorizontalPodAutoscalerBehavior) -> Rules {
        rules(behavior.scale_down.as_ref(), DOWNSCALE_SECONDS, vec![policy("Percent", 100)])
    }

    /// The number that the policies allow.
    fn limit(&self, current: i32, changes: &[(Timestamp, i32)], up: bool, now: Timestamp) -> i32 {
        if self.select == "Disabled" {
            return current;
        }
        let allowed = self.policies.iter().map(|policy| {
            let since = now - SignedDuration::from_secs(policy.period_seconds.into());
            let changed: i32 = changes.iter().filter(|(at, _)| *at > since).map(|(_, change)| change).sum();
            let part = f64::from(policy.value) / 100.0;
            match (up, policy.type_.as_str()) {
                (true, "Pods") => current - changed + policy.value,
                // Rounded up, or a single pod would never become two.
                (true, _) => (f64::from(current - changed) * (1.0 + part)).ceil() as i32,
                (false, "Pods") => current + changed - policy.value,
                (false, _) => (f64::from(current + changed) * (1.0 - part)) as i32,
            }
        });
        let farthest = (self.select == "Min") != up;
        let limit = if farthest { allowed.max() } else { allowed.min() };
        limit.unwrap_or(current)
    }
}

impl Memory {
    /// The number at the first look counts as recommended.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    /// Remembers a change that was made.
    pub(super) fn changed(&mut self, before: i32, after: i32, now: Timestamp) {
        let changes = if after > before { &mut self.up } else { &mut self.down };
        changes.push((now, (after - before).abs()));
        // No period is longer than half an hour.
        let old = now - SignedDuration::from_mins(30);
        changes.retain(|(at, _)| *at >= old);
    }

    /// The number that is to be, where `desired` is recommended at this moment.
    pub(super) fn settle(
        &mut self,
        limits: Limits<'_>,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> Outcome {
        let stable = self.stabilize(limits.behavior, current, desired, now);
        let able = match stable {
            _ if stable == desired => ("ReadyForNewScale", "recommended size matches current size"),
            _ if stable > desired => (
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            ),
            _ => (
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            ),
        };
        let (replicas, limit) = match limits.behavior {
            None => plainly(limits, current, stable),
            Some(behavior) => self.by_rules(limits, behavior, current, stable, now),
        };
        Outcome { replicas, able, limit, limited: replicas != stable }
    }

    /// Waits with what the recommendations of the last while do not all ask for.
    fn stabilize(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> i32 {
        let (up, down) = match behavior {
            Some(behavior) => (Rules::up(behavior).window, Rules::down(behavior).window),
            None => (0, DOWNSCALE_SECONDS),
        };
        let before = |seconds: i32| now - SignedDuration::from_secs(seconds.into());
        let recent = |seconds: i32| {
            self.recommended.iter().filter(move |(at, _)| *at > before(seconds)).map(|(_, count)| *count)
        };
        // Without rules only a decrease waits: an increase is what any recent recommendation still holds up.
        let stable = match behavior {
            None => recent(down).fold(desired, i32::max),
            Some(_) if desired >= current => recent(up).fold(desired, i32::min),
            Some(_) => recent(down).fold(desired, i32::max),
        };
        let oldest = before(up.max(down));
        self.recommended.retain(|(at, _)| *at >= oldest);
        self.recommended.push((now, desired));
        stable
    }

    fn by_rules(
        &self,
        limits: Limits<'_>,
        behavior: &HorizontalPodAutoscalerBehavior,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> (i32, Reason) {
        if desired > current {
            let limit = Rules::up(behavior).limit(current, &self.up, true, now).max(current);
            let (most, reason) =
                if limits.most > limit { (limit, TOO_FAST_UP) } else { (limits.most, TOO_MANY) };
            if desired > most {
                return (most, reason);
            }
        } else if desired < current {
            let limit = Rules::down(behavior).limit(current, &self.down, false, now).min(current);
            let (least, reason) =
                if limits.least < limit { (limit, TOO_FAST_DOWN) } else { (limits.least, TOO_FEW) };
            if desired < least {
                return (least, reason);
            }
        }
        (desired, WITHIN)
    }
}

const TOO_FAST_UP: Reason =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Reason =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Reason =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Reason =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: Reason = ("DesiredWithinRange", "the desired count is within the acceptable range");

/// Without rules: not more than twice as many at once, or four.
fn plainly(limits: Limits<'_>, current: i32, desired: i32) -> (i32, Reason) {
    let fast = current.saturating_mul(2).max(4);
    let (most, reason) = if limits.most > fast { (fast, TOO_FAST_UP) } else { (limits.most, TOO_MANY) };
    match desired {
        _ if desired < limits.least => (limits.least, TOO_FEW),
        _ if desired > most => (most, reason),
        _ => (desired, WITHIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn settled(
        memory: &mut Memory,
        behavior: &Value,
        current: i32,
        desired: i32,
        second: i64,
    ) -> (i32, &'static str, &'static str) {
        let behavior: Option<HorizontalPodAutoscalerBehavior> =
            serde_json::from_value(behavior.clone()).unwrap();
        let limits = Limits { least: 2, most: 20, behavior: behavior.as_ref() };
        let outcome = memory.settle(limits, current, desired, at(second));
        assert_eq!(outcome.limited, outcome.limit.0 != "DesiredWithinRange");
        (outcome.replicas, outcome.able.0, outcome.limit.0)
    }

    #[test]
    fn without_rules() {
        let (ready, within) = ("ReadyForNewScale", "DesiredWithinRange");
        for (current, desired, expected) in [
            (3, 3, (3, ready, within)),
            (3, 5, (5, ready, within)),
            (3, 9, (6, ready, "ScaleUpLimit")),
            (1, 9, (4, ready, "ScaleUpLimit")),
            (15, 40, (20, ready, "TooManyReplicas")),
            (3, 1, (2, ready, "TooFewReplicas")),
        ] {
            assert_eq!(settled(&mut Memory::default(), &Value::Null, current, desired, 0), expected);
        }
        let mut memory = Memory::default();
        memory.begin(6, at(0));
        assert_eq!(settled(&mut memory, &Value::Null, 6, 3, 100), (6, "ScaleDownStabilized", within));
        assert_eq!(settled(&mut memory, &Value::Null, 6, 4, 299), (6, "ScaleDownStabilized", within));
        assert_eq!(settled(&mut memory, &Value::Null, 6, 3, 310), (4, "ScaleDownStabilized", within));
    }

    #[test]
    fn rules_limit_the_speed() {
        let (ready, within) = ("ReadyForNewScale", "DesiredWithinRange");
        let pods = |count: i32| json!([{"type": "Pods", "value": count, "periodSeconds": 60}]);
        let up = |more: Value| json!({"scaleUp": more});
        let down = |mut more: Value| {
            more["stabilizationWindowSeconds"] = json!(0);
            json!({"scaleDown": more})
        };
        for (behavior, current, desired, expected) in [
            (up(json!({"policies": pods(1)})), 3, 9, (4, ready, "ScaleUpLimit")),
            (up(json!({"selectPolicy": "Disabled"})), 3, 9, (3, ready, "ScaleUpLimit")),
            (up(json!({"selectPolicy": "Min"})), 2, 9, (4, ready, "ScaleUpLimit")),
            (up(json!({})), 2, 9, (6, ready, "ScaleUpLimit")),
            (up(json!({})), 15, 40, (20, ready, "TooManyReplicas")),
            (down(json!({"policies": pods(2)})), 9, 3, (7, ready, "ScaleDownLimit")),
            (down(json!({})), 9, 1, (2, ready, "TooFewReplicas")),
            (down(json!({})), 9, 3, (3, ready, within)),
        ] {
            let found = settled(&mut Memory::default(), &behavior, current, desired, 0);
            assert_eq!(found, expected, "{behavior}");
        }
        let behavior = up(json!({"policies": pods(2)}));
        let mut memory = Memory::default();
        assert_eq!(settled(&mut memory, &behavior, 3, 9, 0), (5, ready, "ScaleUpLimit"));
        memory.changed(3, 5, at(0));
        assert_eq!(settled(&mut memory, &behavior, 5, 9, 30), (5, ready, "ScaleUpLimit"));
        assert_eq!(settled(&mut memory, &behavior, 5, 9, 61), (7, ready, "ScaleUpLimit"));
        let mut memory = Memory::default();
        let slow = up(json!({"stabilizationWindowSeconds": 60}));
        settled(&mut memory, &slow, 3, 3, 0);
        assert_eq!(settled(&mut memory, &slow, 3, 5, 30), (3, "ScaleUpStabilized", within));
        assert_eq!(settled(&mut memory, &slow, 3, 5, 61), (5, ready, within));
    }
}

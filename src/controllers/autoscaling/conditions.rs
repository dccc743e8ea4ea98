//! The conditions of an autoscaler. Pure.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::controllers::seconds;

/// Sets a condition; its time is that of its last turn.
pub(super) fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    name: &str,
    value: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let at = conditions.iter().position(|condition| condition.type_ == name);
    let at = at.unwrap_or_else(|| {
        let new = HorizontalPodAutoscalerCondition { type_: name.to_owned(), ..Default::default() };
        conditions.push(new);
        conditions.len() - 1
    });
    let value = if value { "True" } else { "False" };
    let condition = &mut conditions[at];
    if condition.status != value {
        condition.last_transition_time = Some(Time(seconds(now)));
    }
    condition.status = value.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
}

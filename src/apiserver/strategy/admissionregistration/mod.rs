//! `admissionregistration.k8s.io`: who else is asked before a write is carried out.
//!
//! Expressions must compile; what they give shows when they are asked.

mod binding;
mod compiled;
mod matching;
mod policy;
mod webhook;

use super::Strategy;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "MutatingAdmissionPolicy" => &policy::MutatingAdmissionPolicy,
        "MutatingAdmissionPolicyBinding" => &binding::MUTATING,
        "MutatingWebhookConfiguration" => &webhook::MUTATING,
        "ValidatingAdmissionPolicy" => &policy::ValidatingAdmissionPolicy,
        "ValidatingAdmissionPolicyBinding" => &binding::VALIDATING,
        "ValidatingWebhookConfiguration" => &webhook::VALIDATING,
        _ => return None,
    })
}

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];

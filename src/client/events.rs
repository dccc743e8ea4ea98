//! Recording of Events about objects, with Kubernetes' aggregation: the same event again raises its count.

use k8s_openapi::api::core::v1::ObjectReference;

use super::Client;

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Something for a person to look at.
    Warning,
}

/// Records events of one component; never blocks and never fails its caller.
#[derive(Clone)]
pub struct Recorder {}

impl Recorder {
    /// A recorder for `component` (`kubelet`, `default-scheduler`) on `host`, and the task that writes.
    pub fn new(
        _client: Client,
        _component: &str,
        _host: &str,
    ) -> (Recorder, impl Future<Output = ()> + Send + 'static) {
        (Recorder {}, async {})
    }

    /// Records that `reason` happened to `about`.
    pub fn record(&self, _about: &ObjectReference, _kind: EventType, _reason: &str, _message: &str) {
        todo!()
    }
}

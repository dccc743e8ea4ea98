//! Attributes for the tests of single plugins.

use std::sync::{Arc, LazyLock};

use super::{Attributes, Operation, Options};
use crate::api::kinds::{self, Kind};
use crate::api::request::{User, WriteOptions};

static USER: LazyLock<User> = LazyLock::new(|| User::component("test"));
static OPTIONS: LazyLock<WriteOptions> = LazyLock::new(WriteOptions::default);

/// A request about a kind's objects in `default`; kinds that are not served here are made up.
pub fn attributes(group: &str, plural: &str, operation: Operation) -> Attributes<'static> {
    Attributes {
        operation,
        kind: kind(group, plural),
        subresource: "",
        namespace: Some("default"),
        name: "",
        old: None,
        user: &USER,
        options: Options::Create(&OPTIONS),
        warnings: Vec::new(),
    }
}

fn kind(group: &str, plural: &str) -> &'static Arc<Kind> {
    kinds::by_resource(group, "v1", plural).unwrap_or_else(|| {
        let pods = kinds::by_resource("", "v1", "pods").unwrap();
        let (group, plural) = (group.to_owned().into(), plural.to_owned().into());
        Box::leak(Box::new(Arc::new(Kind { group, plural, ..(**pods).clone() })))
    })
}

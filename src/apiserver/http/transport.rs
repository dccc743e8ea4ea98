//! Requests of components in this process, led to other servers as those that come over HTTP are.

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde_json::Value;
use tokio::sync::watch;

use super::Server;
use crate::api::request::{Request, Response, Transport};
use crate::api::status::Status;
use crate::apiserver::aggregation;
use crate::apiserver::auth::attributes::Attributes;

impl Transport for Server {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, Status>> {
        let (registry, target) = (self.api.registry(), &request.target);
        let Some(aggregator) = &self.aggregator else { return self.api.call(request) };
        let Some(service) = aggregation::remote_of(registry.store(), &target.group, &target.version) else {
            return self.api.call(request);
        };
        async move {
            self.api.authorizer().authorize(&request.user, &Attributes::of_request(&request))?;
            aggregator.call(registry, &self.proxy, service.json(), request).await
        }
        .boxed()
    }

    fn discover(&self) -> BoxFuture<'_, Result<Value, Status>> {
        ready(Ok(self.groups(&self.discovered()))).boxed()
    }

    fn elsewhere(&self) -> Option<watch::Receiver<()>> {
        self.aggregator.as_ref().map(|aggregator| aggregator.news())
    }
}

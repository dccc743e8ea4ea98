//! Pages of the kubelet's own server, which is in this process.

use hyper::Method;

use crate::api::node::Node;
use crate::api::status::Status;
use crate::apiserver::answer::{self, Body};

/// What is told to people rather than to programs.
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers as the kubelet does: in plain text when something is wrong.
pub async fn of_node(
    node: &dyn Node,
    method: &Method,
    path: &str,
    query: &str,
) -> Result<http::Response<Body>, Status> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Ok(answer::typed(405, TEXT, "405: Method Not Allowed"));
    }
    Ok(match node.page(path.to_owned(), query.trim_start_matches('?').to_owned()).await {
        Ok(page) => answer::typed(200, page.content_type, page.content),
        Err(status) => answer::typed(status.code, TEXT, format!("{}\n", status.message)),
    })
}

//! Version: who we are. Asked by every client when it connects; all four parts must be non-empty.

use api::cri::v1::{VersionRequest, VersionResponse};

use crate::error::Error;

/// Version of the protocol between kubelet and runtime, the same since the beginning: no kubelet starts with another.
const PROTOCOL: &str = "0.1.0";
/// Prefix of every container id in the Kubernetes API, `coracle://…`. Must never change.
pub(crate) const RUNTIME: &str = "coracle";
/// Version of the contract.
const API: &str = "v1";

/// The same answer to everybody, whatever version they speak of.
pub(crate) fn answer(_: VersionRequest) -> Result<VersionResponse, Error> {
    Ok(VersionResponse {
        version: PROTOCOL.to_owned(),
        runtime_name: RUNTIME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: API.to_owned(),
    })
}

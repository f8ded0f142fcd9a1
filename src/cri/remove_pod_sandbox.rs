//! RemovePodSandbox: nothing is left of a pod. What is gone is success.

use api::cri::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use pods::Pods;

use crate::{error::Error, field::Field, request::text};

/// Removes the pod, stopping it first if need be.
pub(crate) async fn answer(request: RemovePodSandboxRequest, pods: &Pods) -> Result<RemovePodSandboxResponse, Error> {
    let id = text::id(&Field::root("pod_sandbox_id"), request.pod_sandbox_id)?;
    pods.remove(&id).await?;
    Ok(RemovePodSandboxResponse {})
}

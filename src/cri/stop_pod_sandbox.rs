//! StopPodSandbox: ends a pod's containers and gives its network back. What is stopped or gone is success.

use api::cri::v1::{StopPodSandboxRequest, StopPodSandboxResponse};
use pods::Pods;

use crate::{error::Error, field::Field, request::text};

/// Stops the pod.
pub(crate) async fn answer(request: StopPodSandboxRequest, pods: &Pods) -> Result<StopPodSandboxResponse, Error> {
    let id = text::id(&Field::root("pod_sandbox_id"), request.pod_sandbox_id)?;
    pods.stop(&id).await?;
    Ok(StopPodSandboxResponse {})
}

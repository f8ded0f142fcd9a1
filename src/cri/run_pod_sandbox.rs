//! RunPodSandbox: a pod that is ready when the call returns. The same request again joins the first one.

use api::cri::v1::{RunPodSandboxRequest, RunPodSandboxResponse};
use pods::Pods;

use crate::{
    door,
    error::Error,
    request::{Host, pod},
};

/// Checks the configuration and runs the pod.
pub(crate) async fn answer(
    request: RunPodSandboxRequest,
    pods: &Pods,
    host: &Host,
) -> Result<RunPodSandboxResponse, Error> {
    let plan = pod::plan(request.config, request.runtime_handler, host)?;
    let id = pods.run(plan).await?;
    door::made("pod", id.as_str());
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}
